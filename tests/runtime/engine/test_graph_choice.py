"""Which of a bundle's graphs are opened, by what the machine has and by what is drafted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import dovetail_ort
from dovetail_ort import ChainShape, GenerationOptions, SamplingOptions, TreeShape
from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_entries import TapsEntry
from dovetail_ort_runtime.drafting.drafter import NoDrafter
from dovetail_ort_runtime.drafting.drafting_ahead import DraftingAhead
from dovetail_ort_runtime.engine import draft_graph, first_blocks, host_buffers, session
from dovetail_ort_runtime.engine.graph_choice import TargetGraphs, graphs_to_load
from dovetail_ort_runtime.engine.kv_cache import KVCache
from dovetail_ort_runtime.engine.session import open_session
from dovetail_ort_runtime.errors import BundleError, InputError, UnavailableError
from dovetail_ort_runtime.loading import curves, draft_models, loaded_bundle
from dovetail_ort_runtime.model import load_model
from dovetail_ort_runtime.planning.planner import Planner

PROMPT = np.random.default_rng(0).integers(3, 384, 24).tolist()
FOUR = ChainShape.fixed(4)
TREE = TreeShape(num_rows=9, num_expansions=3, width=4)
FOR_CHAINS = ["model_front_fp16_chains.onnx", "drafter_fp16_chains.onnx"]
GRAPH = Path("folder/model_native.onnx")
CUT = {"front_graph": "front.onnx", "front_layers": 1, "rest_graph": "rest.onnx"}


@pytest.fixture
def entry(native_graphs):
    def entry(**changes):
        return native_graphs.target_entry(**changes)

    return entry


@pytest.fixture
def with_library(monkeypatch):
    monkeypatch.setattr(kernels, "is_available", lambda: True)


@pytest.mark.parametrize("beside", [{}, {"portable_graph": "portable.onnx"}])
def test_the_native_graph_is_taken_where_the_library_is(entry, with_library, beside):
    assert graphs_to_load(GRAPH, entry(**beside), "cpu") == TargetGraphs(graph=GRAPH, is_native=True)


TAPS = TapsEntry(graph="tapped.onnx", levels=(1,), portable_graph="portable_tapped.onnx")


def test_taps_take_the_place_of_the_graph_that_would_be_opened(entry, with_library, monkeypatch):
    both = entry(portable_graph="portable.onnx")
    assert graphs_to_load(GRAPH, both, "cpu", TAPS) == TargetGraphs(graph=Path("folder/tapped.onnx"), is_native=True)
    monkeypatch.setattr(kernels, "is_available", lambda: False)
    portable = TargetGraphs(graph=Path("folder/portable_tapped.onnx"), is_native=False)
    assert graphs_to_load(GRAPH, both, "cpu", TAPS) == portable


def test_a_cut_target_has_no_taps(entry):
    with pytest.raises(InputError, match="A target that was cut has no taps"):
        graphs_to_load(GRAPH, entry(**CUT), "cpu", TAPS)


def test_the_portable_graph_is_taken_where_the_library_is_missing(entry, without_library):
    for beside in ({}, CUT):
        found = graphs_to_load(GRAPH, entry(portable_graph="portable.onnx", **beside), "cpu")
        assert found == TargetGraphs(graph=Path("folder/portable.onnx"), is_native=False)


@pytest.mark.parametrize("beside", [{}, CUT])
def test_a_native_target_alone_ends_in_one_line_without_the_library(entry, without_library, beside):
    with pytest.raises(UnavailableError, match=r"model_native\.onnx needs .*; run: build it") as caught:
        graphs_to_load(GRAPH, entry(**beside), "cpu")
    assert "\n" not in str(caught.value)


def test_a_native_target_that_was_cut_takes_its_front_for_a_gpu_only(entry, with_library):
    assert graphs_to_load(GRAPH, entry(**CUT), "cpu") == TargetGraphs(graph=GRAPH, is_native=True)
    assert graphs_to_load(GRAPH, entry(**CUT), "cuda") == TargetGraphs(
        graph=Path("folder/rest.onnx"), is_native=True, first_blocks=Path("folder/front.onnx"), num_first_blocks=1
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_portable_target_that_was_cut_has_its_front_on_either_device(entry, device):
    portable = entry(format="portable", operators=None, front_graph="front.onnx", front_layers=1)
    found = graphs_to_load(GRAPH, portable, device)
    assert found == TargetGraphs(
        graph=GRAPH, is_native=False, first_blocks=Path("folder/front.onnx"), num_first_blocks=1
    )


def test_a_bundle_of_both_formats_answers_without_the_library(tiny_bundle_both, without_library):
    with load_model(tiny_bundle_both, drafter="none", threads=1) as model:
        assert len(model.generate(PROMPT[:5]).token_ids) > 1


@pytest.fixture
def drafting_bundle_both(tiny_bundle_both, with_drafter):
    return with_drafter(tiny_bundle_both)


def test_without_the_library_auto_leaves_a_native_drafter_out_and_says_so(drafting_bundle_both, without_library):
    with pytest.warns(UserWarning, match="draft head cannot run here.* the library is missing"):
        model = load_model(drafting_bundle_both, threads=1)
    with model:
        assert [report.name for report in model.sessions()] == ["target"]
        assert len(model.generate(PROMPT[:5]).token_ids) > 1
    with pytest.raises(UnavailableError, match="needs this package's library"):
        load_model(drafting_bundle_both, drafter="dgf", threads=1)


def test_a_front_on_a_gpu_needs_a_rest_graph(native_graphs):
    with pytest.raises(ValueError, match="needs a rest_graph"):
        dataclasses.replace(native_graphs.target_entry(**CUT), rest_graph=None)


@pytest.fixture(scope="module")
def bundle(tiny_cut_bundle, tiny_head, tmp_path_factory):
    """A target in two graphs, and a drafter in half precision."""
    from dovetail_ort_export.attach import attach_drafter

    copy = shutil.copytree(tiny_cut_bundle, tmp_path_factory.mktemp("half") / "bundle")
    attach_drafter(copy, tiny_head(tiny_cut_bundle), "fp16")
    return copy


class CacheOfADevice(KVCache):
    """Lies on the CPU, whatever its device is."""

    def __init__(self, shape, *, device):
        super().__init__(shape)


@pytest.fixture
def opened(monkeypatch):
    """Names of the graphs that are opened on CUDA, which is the CPU here."""
    names = []

    def open_here(graph, threads, *, device, vram_limit, trace=None):
        if device == "cuda":
            names.append(graph.name)
        return open_session(graph, threads, trace=trace)

    for module in (draft_graph, first_blocks):
        monkeypatch.setattr(module, "open_session", open_here)
        monkeypatch.setattr(module, "KVCache", CacheOfADevice)
    for module in (loaded_bundle, draft_models):
        monkeypatch.setattr(module, "has_cuda", lambda: True)
    monkeypatch.setattr(host_buffers, "page_locked_zeros", np.zeros)
    monkeypatch.setattr(session, "vram_in_use", lambda: None)
    monkeypatch.setattr(curves, "device_name", lambda: "none")
    return names


def answers(loaded):
    """Token ids of the baseline's answer and of a speculative one."""
    return [
        loaded.generate(
            PROMPT, GenerationOptions(max_new_tokens=40, sampling=SamplingOptions(), max_draft_tokens=number)
        ).token_ids
        for number in (0, 8)
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, FOR_CHAINS),
        ({"drafter": "dgf"}, FOR_CHAINS),
        ({"drafter": "dgf", "draft_shape": FOUR}, FOR_CHAINS),
        ({"drafter": "dgf", "draft_shape": TREE}, [FOR_CHAINS[0], "drafter_fp16.onnx"]),
        ({"drafter": "lookup"}, FOR_CHAINS[:1]),
        ({"drafter_device": "cpu"}, FOR_CHAINS[:1]),
        ({"target_layers_on_gpu": 0}, FOR_CHAINS[1:]),
        ({"target_layers_on_gpu": 0, "drafter_device": "cpu"}, []),
    ],
    ids=str,
)
def test_one_graph_of_each_is_opened_and_the_answer_stays(opened, bundle, settings, expected):
    loaded = dovetail_ort.load(bundle, threads=1, **settings)
    assert opened == expected
    baseline, speculative = answers(loaded)
    assert speculative == baseline


def test_a_front_verifies_first_paths_whoever_drafts(opened, bundle):
    dovetail_ort.load(bundle, threads=1, drafter=NoDrafter())
    assert opened == FOR_CHAINS[:1]


def test_drafting_ahead_takes_the_graph_for_chains(opened, bundle):
    loaded = dovetail_ort.load(bundle, threads=1)
    planner = loaded._decoder.drafter
    assert isinstance(planner, Planner)
    ahead = planner.model
    assert isinstance(ahead, DraftingAhead)
    assert ahead.drafter.model.for_chains
    answers(loaded)
    assert opened == FOR_CHAINS


def test_the_weights_of_a_graph_for_chains_are_counted(opened, bundle):
    reports = {}
    for shape in (FOUR, TREE):
        loaded = dovetail_ort.load(bundle, threads=1, drafter="dgf", draft_shape=shape)
        reports[shape] = [(report.weight_bytes, report.cache_bytes) for report in loaded.sessions()]
    assert reports[FOUR] == reports[TREE]
    sizes = {file.path: file.num_bytes for file in Bundle(bundle).manifest.files}
    assert reports[FOUR][-1][0] == sizes["drafter_fp16.onnx"] + sizes["drafter_fp16.onnx_data"]


@pytest.fixture
def changed(bundle, tmp_path):
    """`changed(part, **keys)`: a copy with other values in a part of its manifest, and those of None left out."""

    def change(part, **keys):
        copy = shutil.copytree(bundle, tmp_path / "copy", dirs_exist_ok=True)
        manifest = json.loads((copy / "manifest.json").read_text())
        for key, value in keys.items():
            manifest[part].pop(key)
            if value is not None:
                manifest[part][key] = value
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    return change


def test_a_bundle_of_before_drafts_chains_with_the_graphs_it_has(opened, bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy", ignore=shutil.ignore_patterns("*_chains.onnx"))
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["target"]["front_chain_graph"], manifest["drafter"]["chain_graph"]
    manifest["files"] = [file for file in manifest["files"] if (copy / file["path"]).exists()]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    baseline, speculative = answers(dovetail_ort.load(copy, threads=1, drafter="dgf", draft_shape=FOUR))
    assert opened == ["model_front_fp16.onnx", "drafter_fp16.onnx"]
    assert speculative == baseline


@pytest.mark.parametrize(
    ("part", "keys", "shape", "message"),
    [
        ("drafter", {"graph": "drafter_fp16_chains.onnx"}, TREE, "drafter_fp16_chains.onnx is for trees but lacks"),
        ("target", {"front_chain_graph": "drafter_fp16.onnx"}, FOUR, "drafter_fp16.onnx is for chains but has"),
        (
            "target",
            {"front_graph": "model_front_fp16_chains.onnx"},
            TREE,
            "model_front_fp16_chains.onnx is for trees but lacks the input attention_bias; do not use this bundle",
        ),
    ],
)
def test_a_graph_of_the_other_kind_is_refused(opened, changed, part, keys, shape, message):
    copy = changed(part, **keys)
    with pytest.raises(BundleError, match=message):
        dovetail_ort.load(copy, threads=1, drafter="dgf", draft_shape=shape)


@pytest.mark.parametrize(("part", "key"), [("drafter", "chain_graph"), ("target", "front_chain_graph")])
@pytest.mark.parametrize("name", ["../drafter_fp16.onnx", "..", "", "/etc/passwd", "a/b.onnx"])
def test_a_graph_for_chains_lies_beside_the_other_one(changed, part, key, name):
    with pytest.raises(BundleError, match=f"{key} must be the name of a file beside"):
        Bundle(changed(part, **{key: name}))


@pytest.mark.parametrize(("part", "key"), [("drafter", "chain_graph"), ("target", "front_chain_graph")])
def test_a_graph_for_chains_that_is_not_listed_is_refused(changed, part, key):
    with pytest.raises(BundleError, match=r"the manifest refers to 'another\.onnx'"):
        Bundle(changed(part, **{key: "another.onnx"}))


def test_an_altered_graph_for_chains_is_refused(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    graph = copy / "drafter_fp16_chains.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"candidates", b"candidatez"))
    with pytest.raises(BundleError, match=r"drafter_fp16_chains\.onnx must have the SHA-256"):
        Bundle(copy)


def test_a_chain_graph_of_the_front_goes_with_a_front(changed):
    with pytest.raises(BundleError, match="front_chain_graph needs a front_graph; leave out 'model_front"):
        Bundle(changed("target", front_graph=None, front_layers=0))
