"""Which graphs of a target are loaded, by what the machine has."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.decoding.verification import verification_rows
from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal
from dovetail_ort_runtime.engine import target
from dovetail_ort_runtime.engine.row_invariance import run_in_chunks
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.engine.target_graphs import TargetGraphs, graphs_to_load
from dovetail_ort_runtime.errors import UnavailableError
from dovetail_ort_runtime.model import load_model

TOKENS = np.random.default_rng(11).integers(0, 384, 60)
GRAPH = Path("folder/model_native.onnx")


@pytest.fixture
def entry(native_graphs):
    def entry(**changes):
        return native_graphs.target_entry(**changes)

    return entry


CUT = {"front_graph": "front.onnx", "front_layers": 1, "rest_graph": "rest.onnx"}


@pytest.fixture
def with_library(monkeypatch):
    monkeypatch.setattr(kernels, "is_available", lambda: True)


@pytest.mark.parametrize("beside", [{}, {"portable_graph": "portable.onnx"}])
def test_the_native_graph_is_taken_where_the_library_is(entry, with_library, beside):
    assert graphs_to_load(GRAPH, entry(**beside), "cpu") == TargetGraphs(graph=GRAPH, is_native=True)


def test_the_portable_graph_is_taken_where_the_library_is_missing(entry, without_library):
    for beside in ({}, CUT):
        found = graphs_to_load(GRAPH, entry(portable_graph="portable.onnx", **beside), "cpu")
        assert found == TargetGraphs(graph=Path("folder/portable.onnx"), is_native=False)


@pytest.mark.parametrize("beside", [{}, CUT])
def test_a_native_target_alone_ends_in_one_line_without_the_library(entry, without_library, beside):
    with pytest.raises(UnavailableError, match=r"model_native\.onnx must have .*; run: build it") as caught:
        graphs_to_load(GRAPH, entry(**beside), "cpu")
    assert "\n" not in str(caught.value)


def test_a_native_target_that_was_cut_takes_its_front_for_a_gpu_only(entry, with_library):
    assert graphs_to_load(GRAPH, entry(**CUT), "cpu") == TargetGraphs(graph=GRAPH, is_native=True)
    assert graphs_to_load(GRAPH, entry(**CUT), "cuda") == TargetGraphs(
        graph=Path("folder/rest.onnx"), is_native=True, front=Path("folder/front.onnx"), front_layers=1
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_portable_target_that_was_cut_has_its_front_on_either_device(entry, device):
    portable = entry(format="portable", operators=None, front_graph="front.onnx", front_layers=1)
    found = graphs_to_load(GRAPH, portable, device)
    assert found == TargetGraphs(graph=GRAPH, is_native=False, front=Path("folder/front.onnx"), front_layers=1)


def test_a_bundle_of_both_formats_answers_without_the_library(tiny_bundle_both, without_library):
    with load_model(tiny_bundle_both, drafter="none", threads=1) as model:
        assert len(model.generate(TOKENS[:5].tolist()).token_ids) > 1


@pytest.fixture
def drafting_bundle_both(tiny_bundle_both, with_drafter):
    return with_drafter(tiny_bundle_both)


def test_without_the_library_auto_leaves_a_native_drafter_out_and_says_so(drafting_bundle_both, without_library):
    with pytest.warns(UserWarning, match="draft head cannot run here.* the library is missing"):
        model = load_model(drafting_bundle_both, threads=1)
    with model:
        assert [report.name for report in model.sessions()] == ["target"]
        assert len(model.generate(TOKENS[:5].tolist()).token_ids) > 1
    with pytest.raises(UnavailableError, match="must have this package's library"):
        load_model(drafting_bundle_both, drafter="dgf", threads=1)


@pytest.fixture
def cut_target(tiny_cut_bundle_native, monkeypatch):
    """Front and rest as on a machine with a GPU, both on the CPU."""
    bundle = Bundle(tiny_cut_bundle_native)
    known = bundle.manifest.target
    with monkeypatch.context() as patch:
        patch.setattr(target, "graphs_to_load", lambda graph, entry, _: graphs_to_load(graph, entry, "cuda"))
        return Target(bundle.path(known.graph), known, threads=1)


@pytest.fixture
def whole_target(tiny_cut_bundle_native):
    bundle = Bundle(tiny_cut_bundle_native)
    return Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, threads=1)


def test_a_cut_native_bundle_runs_whole_without_a_gpu(whole_target):
    assert whole_target.front is None
    assert (whole_target.is_native, whole_target.least_rows, whole_target.keeps_branches) == (True, 1, True)
    assert len(whole_target.reports()) == 1


def test_a_front_brings_its_rule_of_two_rows_to_a_native_rest(cut_target):
    assert cut_target.front is not None
    assert (cut_target.is_native, cut_target.least_rows, cut_target.keeps_branches) == (False, 2, False)
    front, rest = cut_target.reports()
    assert (front.name, rest.name) == ("target, first blocks", "target")
    assert 0 < rest.cache_bytes < front.cache_bytes * 1.01  # a block each in fp16


def test_front_and_native_rest_say_what_the_whole_target_says(cut_target, whole_target):
    cut, _ = run_in_chunks(cut_target, TOKENS, 8)
    whole, _ = run_in_chunks(whole_target, TOKENS, 8)
    # The first block in fp16 instead of INT8: 0.65 at most of logits up to 7.4, and 95 % equal tokens, were measured.
    assert 0 < np.abs(cut - whole).max() < 1.3
    assert np.mean(cut.argmax(-1) == whole.argmax(-1)) > 0.85


def test_a_chain_has_the_same_bits_behind_a_front_in_passes_of_any_size(cut_target):
    expected, _ = run_in_chunks(cut_target, TOKENS, 16)
    for rows in (1, 2, 3):
        np.testing.assert_array_equal(run_in_chunks(cut_target, TOKENS, rows)[0], expected)


def test_the_first_path_of_a_tree_has_the_bits_of_a_chain_behind_a_front(cut_target):
    run_in_chunks(cut_target, TOKENS[:20], 4)
    path, root = TOKENS[21:25], int(TOKENS[20])
    chain = cut_target.forward(verification_rows(root, Proposal.chain(path), 20)).logits.copy()
    tree = Proposal(token_ids=np.concatenate([path, [1, 2, 3, 4]]), parents=np.array([ROOT, 0, 1, 2, ROOT, 0, 5, 2]))
    rows = cut_target.forward(verification_rows(root, tree, 20))
    np.testing.assert_array_equal(rows.logits[:5], chain)


def test_weights_that_graphs_share_count_for_each(tiny_cut_bundle_native, cut_target, whole_target):
    data = (tiny_cut_bundle_native / "model_native.onnx_data").stat().st_size
    assert whole_target.weight_bytes > 0.5 * data
    assert 0.3 * data < cut_target.weight_bytes < whole_target.weight_bytes


def test_a_front_on_a_gpu_needs_a_rest_graph(native_graphs):
    with pytest.raises(ValueError, match="needs a rest_graph"):
        dataclasses.replace(native_graphs.target_entry(**CUT), rest_graph=None)
