"""Graphs for chains: they draft the same, from a second file over the same weights."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine import draft_graph
from dovetail_ort_runtime.engine.draft_graph import DraftGraph

PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def attached(tiny_bundle_portable, tiny_head, tmp_path_factory):
    """`attached(precision)`: a bundle with a random drafter of that number format."""
    from dovetail_ort_export.attach import attach_drafter

    made = {}

    def attach(precision):
        if precision not in made:
            made[precision] = tmp_path_factory.mktemp(precision) / "bundle"
            shutil.copytree(tiny_bundle_portable, made[precision])
            attach_drafter(made[precision], tiny_head(tiny_bundle_portable), precision)
        return made[precision]

    return attach


@pytest.fixture
def opened(attached, tmp_path, monkeypatch):
    """`opened(precision)`: a drafter with its graph for trees, and the same with that for chains, both on the CPU."""
    from dovetail_ort_export.writing.chain_graph import write_chain_graph

    def open_both(precision):
        bundle = Bundle(attached(precision))
        entry = bundle.manifest.drafter
        for file in bundle.directory.glob("drafter*"):
            shutil.copyfile(file, tmp_path / file.name)
        write_chain_graph(tmp_path / entry.graph, "chains.onnx")
        models = []
        for name in (entry.graph, "chains.onnx"):
            monkeypatch.setattr(draft_graph, "graph_to_open", lambda graph, *_, name=name, **__: graph.with_name(name))
            models.append(DraftGraph(tmp_path / entry.graph, entry, capacity=64, threads=1))
        return models

    return open_both


def drafted(model):
    """What a prompt in two chunks and three more rows of a chain give, by forward."""
    random = np.random.default_rng(0)
    features = random.normal(size=(20, model.hidden_size)).astype(np.float32)
    token_ids = random.integers(3, 384, 23)
    found = []
    for start, end in ((0, 9), (9, 20), (20, 21), (21, 22), (22, 23)):
        states = features[start:end] if end <= 20 else found[-1][0][-1:]
        rows = model.forward(
            states, token_ids[start:end], np.arange(start, end), num_scored=min(2, end - start), num_candidates=4
        )
        model.cache.keep(range(end - start))
        found.append((rows.hidden_states.copy(), rows.candidate_ids.copy(), rows.log_probabilities.copy()))
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_for_chains_drafts_what_the_other_one_does_with_a_bias_of_zeros(opened, precision):
    with_bias, without = opened(precision)
    assert not with_bias.for_chains
    assert without.for_chains
    for expected, found in zip(drafted(with_bias), drafted(without), strict=True):
        np.testing.assert_array_equal(found[1], expected[1])
        for values, others in zip(found[::2], expected[::2], strict=True):
            # Attention may add in another order: the last bit or two of its format, through two blocks.
            tolerance = 2e-5 if precision == "fp32" else 5e-3
            np.testing.assert_allclose(values, others, atol=tolerance, rtol=tolerance)


def test_a_drafter_in_half_precision_has_both_graphs_over_one_file_of_weights(attached):
    bundle = Bundle(attached("fp16"), "all")
    entry = bundle.manifest.drafter
    names = {file.path: file.num_bytes for file in bundle.manifest.files if file.path.startswith("drafter")}
    assert set(names) == {"drafter_fp16.onnx", "drafter_fp16_chains.onnx", "drafter_fp16.onnx_data"}
    assert entry.graphs == ("drafter_fp16.onnx", "drafter_fp16_chains.onnx")
    graphs = [ir.load(bundle.path(name)).graph for name in entry.graphs]
    weights = [places(graph) for graph in graphs]
    assert weights[0] == weights[1]
    assert {location for location, *_ in weights[0].values()} == {"drafter_fp16.onnx_data"}
    with_bias, without = ([value.name for value in graph.inputs] for graph in graphs)
    assert without == [name for name in with_bias if name != "attention_bias"]
    assert [value.name for value in graphs[1].outputs] == [value.name for value in graphs[0].outputs]
    operators = [[node.op_type for node in graph] for graph in graphs]
    assert len(operators[1]) == len(operators[0]) - 1  # the conversion of the bias; the choice of rows is shared
    assert operators[1].count("Gather") == operators[0].count("Gather")


def places(graph):
    """Where each weight lies that is not in the graph itself."""
    return {
        name: (str(value.const_value.location), value.const_value.offset, value.const_value.length)
        for name, value in graph.initializers.items()
        if isinstance(value.const_value, ir.ExternalTensor)
    }


def test_the_first_blocks_of_a_cut_target_have_both_graphs_over_one_file_of_weights(tiny_cut_bundle):
    bundle = Bundle(tiny_cut_bundle, "all")
    entry = bundle.manifest.target
    assert entry.graphs == ("model.onnx", "model_front_fp16.onnx", "model_front_fp16_chains.onnx")
    with_bias, without = (ir.load(bundle.path(name)).graph for name in entry.graphs[1:])
    assert places(with_bias) == places(without)
    assert "attention_bias" in [value.name for value in with_bias.inputs]
    assert "attention_bias" not in [value.name for value in without.inputs]
    assert [value.name for value in without.outputs] == [value.name for value in with_bias.outputs]


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_drafter_for_the_cpu_has_no_graph_for_chains(attached, precision):
    bundle = Bundle(attached(precision))
    assert bundle.manifest.drafter.chain_graph is None
    assert not list(bundle.directory.glob("*_chains*"))


def test_a_second_drafter_takes_the_place_of_both_graphs(attached, tiny_bundle_portable, tiny_head, tmp_path):
    from dovetail_ort_export.attach import attach_drafter

    copy = shutil.copytree(attached("fp16"), tmp_path / "bundle")
    attach_drafter(copy, tiny_head(tiny_bundle_portable), "int8")
    names = {path.name for path in copy.iterdir() if path.name.startswith("drafter")}
    assert names == {"drafter_quantized.onnx", "drafter_quantized.onnx_data"}
    attach_drafter(copy, tiny_head(tiny_bundle_portable), "fp16")
    assert {path.name for path in copy.glob("*.onnx")} == {
        "model_quantized.onnx",
        "drafter_fp16.onnx",
        "drafter_fp16_chains.onnx",
    }
    Bundle(copy, "all")


ATTACH = """
import os, signal, sys
from pathlib import Path
from dovetail_ort_export.attach import attach_drafter
from dovetail_ort_export.writing import drafter_writer

write = drafter_writer.write_chain_graph
def die(path, name):
    write(path, name)
    os.kill(os.getpid(), signal.SIGKILL)
drafter_writer.write_chain_graph = die
attach_drafter(sys.argv[1], Path(sys.argv[2]), "fp16")
"""


def test_killed_after_the_last_graph_the_bundle_is_as_it_was_and_the_next_time_clears_up(
    tiny_bundle_portable, tiny_head, tmp_path
):
    from dovetail_ort_export.attach import attach_drafter

    copy = shutil.copytree(tiny_bundle_portable, tmp_path / "bundle")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    head = tiny_head(tiny_bundle_portable)
    ended = subprocess.run([sys.executable, "-c", ATTACH, copy, head], check=False, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    attach_drafter(copy, head, "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    Bundle(copy, "all")


def test_passes_over_the_drafter_change_both_of_its_graphs(attached, tmp_path, monkeypatch):
    from dovetail_ort_export.laboratory.apply import apply_passes

    (tmp_path / "doubled.py").write_text(DOUBLED)
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "out"
    apply_passes(attached("fp16"), ["doubled:AddNothing"], out, graph="drafter", force=False)
    bundle = Bundle(out, "all")
    for name in bundle.manifest.drafter.graphs:
        graph = ir.load(bundle.path(name)).graph
        assert "nothing" in graph.initializers
        assert {location for location, *_ in places(graph).values()} == {"drafter_fp16.onnx_data"}
    assert places(graph) == places(ir.load(bundle.path(bundle.manifest.drafter.graph)).graph)


DOUBLED = """
import numpy as np
import onnx_ir as ir

class AddNothing(ir.passes.InPlacePass):
    def call(self, model):
        graph = model.graph
        (states,) = [value for value in graph.inputs if value.name == "hidden_states"]
        nothing = ir.val("nothing", const_value=ir.tensor(np.zeros(64, np.float32), name="nothing"))
        graph.register_initializer(nothing)
        add = ir.node("Add", [states, nothing], name="add_nothing")
        add.outputs[0].name, add.outputs[0].type, add.outputs[0].shape = "states_again", states.type, states.shape
        states.replace_all_uses_with(add.outputs[0])
        add.replace_input_with(0, states)
        graph.insert_before(graph[0], add)
        return ir.passes.PassResult(model, True)
"""
