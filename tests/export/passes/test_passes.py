"""Each pass on the graphs it is for and on graphs it must leave alone."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dovetail_ort_export.passes.bind_weights import BindWeights
from dovetail_ort_export.passes.context import PassContext
from dovetail_ort_export.passes.fuse_skip_norm import FuseSkipNorm
from dovetail_ort_export.passes.keep_blocks import KeepBlocks
from dovetail_ort_export.passes.lower_float import LowerFloat, LowerHalf
from dovetail_ort_export.passes.lower_int8_blocks import LowerInt8Blocks
from dovetail_ort_export.passes.pack_products import PackGateUp, PackQkv
from dovetail_ort_export.passes.score_rows import ScoreRows
from dovetail_ort_runtime.errors import InputError, SourceError

MLP_4_BIT = Path(__file__).parents[3] / "benchmarks" / "recipes" / "mlp-4-bit.toml"


@pytest.fixture(scope="module")
def skeleton(tiny_model):
    """`skeleton(family, ...)`: a traced model and the weights it names."""
    from dovetail_ort_export.source.weights import Weights
    from dovetail_ort_export.tracing.target import trace_target

    def make(family, **settings):
        model = tiny_model(family, **settings)
        return trace_target(model), Weights(model, max_context=512)

    return make


@pytest.fixture(scope="module")
def bound(skeleton):
    """`bound(family, ...)`: the same with the weights in place."""

    def make(family, **settings):
        graph, weights = skeleton(family, **settings)
        BindWeights(PassContext(weights=weights))(graph)
        return graph

    return make


def operators(model):
    return Counter(node.op_type for node in model.graph)


def text(model):
    """Everything but the numbers."""
    return [str(node) for node in model.graph], sorted(model.graph.initializers)


def assert_leaves_alone(graph_pass, model):
    before = text(model)
    assert not graph_pass(model).modified
    assert text(model) == before


# Binding weights


def test_every_named_weight_is_bound_to_its_numbers(skeleton):
    graph, weights = skeleton("qwen2", tie_word_embeddings=False)
    names = {node.attributes["name"].as_string() for node in graph.graph if node.op_type == "Weight"}
    assert BindWeights(PassContext(weights=weights))(graph).modified
    assert operators(graph)["Weight"] == 0
    assert set(graph.graph.initializers) >= names
    for name in names:
        np.testing.assert_array_equal(graph.graph.initializers[name].const_value.numpy(), weights[name])


def test_two_names_of_a_tied_weight_become_one_initializer(bound):
    graph = bound("llama")
    assert "model.embed_tokens.weight" in graph.graph.initializers
    assert "lm_head.weight" not in graph.graph.initializers


def test_a_graph_without_names_is_left_alone_by_binding(skeleton):
    graph, weights = skeleton("llama")
    BindWeights(PassContext(weights=weights))(graph)
    assert_leaves_alone(BindWeights(PassContext(weights=weights)), graph)


# Packing query, key and value


@pytest.mark.parametrize(("family", "biased"), [("llama", False), ("qwen2", True)])
def test_query_key_and_value_become_one_product_of_the_stacked_weights(bound, family, biased):
    graph = bound(family)
    before = {name: value.const_value.numpy().copy() for name, value in graph.graph.initializers.items()}
    linears = operators(graph)["Linear"]
    assert PackQkv()(graph).modified
    assert operators(graph)["Linear"] == linears - 2 * 2  # two fewer in each of two blocks
    for attention in (node for node in graph.graph if node.op_type == "GroupQueryAttention"):
        layer = re.search(r"layers\.(\d+)", attention.name).group(1)
        assert attention.inputs[1] is attention.inputs[2] is None
        product = attention.inputs[0].producer()
        parts = [f"model.layers.{layer}.self_attn.{letter}_proj" for letter in "qkv"]
        if biased:
            assert product.op_type == "Add"
            bias = np.concatenate([before[f"{part}.bias"] for part in parts])
            np.testing.assert_array_equal(product.inputs[1].const_value.numpy(), bias)
            product = product.inputs[0].producer()
        weight = np.concatenate([before[f"{part}.weight"] for part in parts])
        np.testing.assert_array_equal(product.inputs[1].const_value.numpy(), weight)
        assert not any(name.startswith(part) for name in graph.graph.initializers for part in parts)


@pytest.mark.parametrize("biased", [False, True])
def test_queries_and_keys_with_norms_of_their_own_are_split_in_front_of_them(bound, biased):
    graph = bound("qwen3", attention_bias=biased)
    before = operators(graph)
    assert PackQkv()(graph).modified
    after = operators(graph)
    assert after["Linear"] == before["Linear"] - 2 * 2
    assert after["SimplifiedLayerNormalization"] == before["SimplifiedLayerNormalization"]
    for attention in (node for node in graph.graph if node.op_type == "GroupQueryAttention"):
        query, key = (value.producer().inputs[0].producer().inputs[0].producer() for value in attention.inputs[:2])
        split = attention.inputs[2].producer()
        assert split.op_type == "Split"
        assert [query.inputs[0], key.inputs[0], attention.inputs[2]] == list(split.outputs)
        head = graph.graph.inputs[-1].shape[-1]
        assert split.inputs[1].const_value.numpy().tolist() == [4 * head, 2 * head, 2 * head]
        assert split.inputs[0].producer().op_type == ("Add" if biased else "Linear")


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_packing_query_key_and_value_twice_changes_nothing_more(bound, family):
    graph = bound(family)
    PackQkv()(graph)
    assert_leaves_alone(PackQkv(), graph)


# Packing gate and up


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_gate_and_up_become_one_product_of_the_stacked_weights(bound, family):
    graph = bound(family)
    before = {name: value.const_value.numpy().copy() for name, value in graph.graph.initializers.items()}
    linears = operators(graph)["Linear"]
    assert PackGateUp()(graph).modified
    assert operators(graph)["Linear"] == linears - 2
    splits = [node for node in graph.graph if node.op_type == "Split"]
    assert len(splits) == 2
    for layer, split in enumerate(splits):
        packed = split.inputs[0].producer().inputs[1].const_value.numpy()
        parts = [before[f"model.layers.{layer}.mlp.{part}_proj.weight"] for part in ("gate", "up")]
        np.testing.assert_array_equal(packed, np.concatenate(parts))
        assert {use.node.op_type for use in split.outputs[0].uses()} == {"Sigmoid", "Mul"}
        assert {use.node.op_type for use in split.outputs[1].uses()} == {"Mul"}


def test_packing_gate_and_up_twice_changes_nothing_more(bound):
    graph = bound("llama")
    PackGateUp()(graph)
    assert_leaves_alone(PackGateUp(), graph)


@pytest.mark.parametrize(
    "body",
    [
        # The gate is not a product.
        "g = Relu(x)  u = dovetail.Linear(x, w2)  a = Sigmoid(g)  s = Mul(g, a)  y = Mul(s, u)",
        # Two different inputs.
        "m = Relu(x) g = dovetail.Linear(x, w)  u = dovetail.Linear(m, w2)  a = Sigmoid(g) s = Mul(g, a) y = Mul(s, u)",
        # Not silu: the sigmoid multiplies something else.
        "g = dovetail.Linear(x, w)  u = dovetail.Linear(x, w2)  a = Sigmoid(g)  s = Mul(x, a)  y = Mul(s, u)",
        # Nothing is gated.
        "g = dovetail.Linear(x, w)  a = Sigmoid(g)  y = Mul(g, a)",
    ],
)
def test_what_only_resembles_a_gated_mlp_is_not_packed(body):
    assert_leaves_alone(PackGateUp(), small_graph(body))


# Choosing the rows that are scored


def inputs(model):
    return [value.name for value in model.graph.inputs]


def test_the_head_reads_the_rows_that_are_asked_for_and_the_hidden_states_keep_all(bound):
    graph = bound("llama")
    assert ScoreRows()(graph).modified
    assert inputs(graph)[:7] == [*inputs(bound("llama"))[:5], "scored_rows", "past_key_values.0.key"]
    logits, states = graph.graph.outputs[:2]
    gather = logits.producer().inputs[0].producer()
    assert gather.op_type == "Gather"
    assert gather.inputs[0] is states
    assert gather.inputs[1].name == "scored_rows"
    assert [str(axis) for axis in logits.shape] == ["batch_size", "num_scored_rows", "384"]
    assert [str(axis) for axis in states.shape] == ["batch_size", "sequence_length", "64"]


def test_rows_are_chosen_once(bound):
    graph = bound("llama")
    ScoreRows()(graph)
    assert_leaves_alone(ScoreRows(), graph)


def test_a_part_of_a_target_without_the_head_has_no_rows_to_choose(bound):
    graph = KeepBlocks(PassContext(weights=None, end_block=1))(bound("llama")).model
    assert_leaves_alone(ScoreRows(), graph)


def test_what_has_no_head_has_no_rows_to_choose():
    assert_leaves_alone(ScoreRows(), small_graph("y = Relu(x)"))


# Fusing residual additions and norms


NORM = "SimplifiedLayerNormalization <axis = -1, epsilon = 0.001>"


def small_graph(body, outputs="y"):
    """A graph of inputs x and r, weights w and w2 (4, 4) and a norm's weight n (4,)."""
    ones = ",".join("1" * 4)
    square = ",".join("1" * 16)
    header = '<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1, "dovetail": 1, "other": 1]>'
    results = ", ".join(f"float[1, 2, 4] {name}" for name in outputs.split())
    weights = f"float[4] n = {{{ones}}}, float[4, 4] w = {{{square}}}, float[4, 4] w2 = {{{square}}}"
    source = f"{header} graph (float[1, 2, 4] x, float[1, 2, 4] r) => ({results}) <{weights}> {{ {body} }}"
    return ir.from_onnx_text(source)


def test_a_residual_addition_and_its_norm_become_one_operator():
    graph = small_graph(f"t = Add(x, r)  y = {NORM}(t, n)  z = Relu(t)", outputs="y z")
    assert FuseSkipNorm()(graph).modified
    assert operators(graph) == {"SkipSimplifiedLayerNormalization": 1, "Relu": 1}
    fused = next(node for node in graph.graph if node.op_type == "SkipSimplifiedLayerNormalization")
    assert fused.domain == "com.microsoft"
    assert fused.attributes["epsilon"].as_float() == pytest.approx(0.001)
    assert [value.name for value in fused.inputs] == ["x", "r", "n"]
    relu = next(node for node in graph.graph if node.op_type == "Relu")
    assert relu.inputs[0] is fused.outputs[3]  # the sum
    assert [value.name for value in graph.graph.outputs] == ["y", "z"]


@pytest.mark.parametrize(
    "body",
    [
        f"y = {NORM}(x, n)",  # a norm without an addition
        "t = Add(x, r)  y = Relu(t)",  # an addition without a norm
    ],
)
def test_an_addition_or_a_norm_alone_is_not_fused(body):
    assert_leaves_alone(FuseSkipNorm(), small_graph(body))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_every_residual_addition_of_a_model_is_fused(bound, family):
    graph = bound(family)
    norms = operators(graph)["SimplifiedLayerNormalization"]
    FuseSkipNorm()(graph)
    found = operators(graph)
    # Two residual additions a block; only the first block's first norm reads no sum.
    assert found["SkipSimplifiedLayerNormalization"] == 4
    assert found["SimplifiedLayerNormalization"] == norms - 4
    # What is left to add are biases.
    assert found["Add"] == (2 * 3 if family == "qwen2" else 0)


# Lowering


def test_float_lowering_replaces_products_and_embedding_and_nothing_else(bound):
    graph = bound("llama", tie_word_embeddings=False)
    before = operators(graph)
    LowerFloat()(graph)
    after = operators(graph)
    assert after["MatMul"] == before["Linear"]
    assert after["Gather"] == before["Embedding"] == 1
    changed = {"MatMul", "Gather", "Linear", "Embedding"}
    assert {op: count for op, count in after.items() if op not in changed} == {
        op: count for op, count in before.items() if op not in changed
    }


def test_a_float_product_reads_its_weight_transposed(bound):
    graph = bound("llama", tie_word_embeddings=False)
    weight = graph.graph.initializers["model.layers.0.mlp.down_proj.weight"].const_value.numpy().copy()
    LowerFloat()(graph)
    lowered = graph.graph.initializers["model.layers.0.mlp.down_proj.weight_transposed"].const_value.numpy()
    np.testing.assert_array_equal(lowered, weight.T)


def test_int8_lowering_replaces_products_and_embedding_and_nothing_else(bound):
    graph = bound("llama")
    before = operators(graph)
    assert LowerInt8Blocks()(graph).modified
    after = operators(graph)
    assert after["MatMulNBits"] == before["Linear"]
    assert after["GatherBlockQuantized"] == before["Embedding"] == 1
    changed = {"MatMulNBits", "GatherBlockQuantized", "Linear", "Embedding", "Reshape"}
    assert {op: count for op, count in after.items() if op not in changed} == {
        op: count for op, count in before.items() if op not in changed
    }


def test_a_lowered_graph_is_left_alone_by_int8_lowering(bound):
    graph = bound("llama")
    LowerInt8Blocks()(graph)
    assert_leaves_alone(LowerInt8Blocks(), graph)


def test_a_width_that_blocks_do_not_divide_is_refused_with_the_way_out(bound):
    message = "down_proj.weight must be a multiple of 32 for INT8, got 48; export with --precision fp32"
    with pytest.raises(SourceError, match=message):
        LowerInt8Blocks()(bound("llama", intermediate_size=48))


@pytest.mark.parametrize("block_size", [16, 64])
def test_every_product_and_the_embedding_have_blocks_of_the_size_asked_for(bound, block_size):
    graph = bound("llama")
    LowerInt8Blocks(block_size=block_size)(graph)
    lowered = [node for node in graph.graph if node.op_type in ("MatMulNBits", "GatherBlockQuantized")]
    assert {node.attributes["block_size"].as_int() for node in lowered} == {block_size}
    assert {node.attributes["bits"].as_int() for node in lowered} == {8}


def test_only_the_products_of_the_mlp_get_four_bits(bound):
    graph = bound("llama")
    PackGateUp()(graph)
    LowerInt8Blocks(mlp_bits=4)(graph)
    lowered = [node for node in graph.graph if node.op_type in ("MatMulNBits", "GatherBlockQuantized")]
    names = {bits: [node.name for node in lowered if node.attributes["bits"].as_int() == bits] for bits in (4, 8)}
    assert len(names[4]) == 2 * 2
    assert all("/mlp/" in name or ".mlp." in name for name in names[4])
    assert len(names[8]) == 2 * 4 + 2  # query, key, value and output in each block; head and embedding
    assert not any("mlp" in name for name in names[8])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 48}, "block_size must be one of 16, 32, 64, 128, got 48"),
        ({"block_size": "32"}, "block_size must be one of 16, 32, 64, 128, got '32'"),
        ({"block_size": 32.0}, "block_size must be one of 16, 32, 64, 128, got 32.0"),
        ({"mlp_bits": 3}, "mlp_bits must be one of 4, 8, got 3"),
    ],
)
def test_int8_lowering_refuses_what_no_kernel_reads(options, message):
    with pytest.raises(InputError, match=message):
        LowerInt8Blocks(**options)


# What a pass promises


@pytest.mark.parametrize(
    "graph_pass", [PackQkv(), PackGateUp(), LowerFloat(), LowerHalf(), LowerInt8Blocks()], ids=repr
)
def test_a_node_that_is_left_as_it_was_breaks_the_promise(bound, monkeypatch, graph_pass):
    monkeypatch.setattr(type(graph_pass), "_rewrite", lambda *_: None)
    with pytest.raises(ir.passes.PostconditionError, match="is left as it was"):
        graph_pass(bound("llama"))


def test_a_name_that_is_left_unbound_breaks_the_promise(skeleton, monkeypatch):
    graph, weights = skeleton("llama")
    monkeypatch.setattr(BindWeights, "_rewrite", lambda *_: None)
    with pytest.raises(ir.passes.PostconditionError, match="is left as it was"):
        BindWeights(PassContext(weights=weights))(graph)


@pytest.mark.parametrize(
    ("graph_pass", "message"),
    [
        (FuseSkipNorm(), "still reads the addition"),
        (ScoreRows(), "more than the choice of rows reads hidden_states"),
        (LowerHalf(), "is left as it was"),
    ],
    ids=repr,
)
def test_a_pass_that_does_nothing_breaks_its_promise(bound, monkeypatch, graph_pass, message):
    monkeypatch.setattr(type(graph_pass), "call", lambda _, model: ir.passes.PassResult(model, False))
    with pytest.raises(ir.passes.PostconditionError, match=message):
        graph_pass(bound("llama"))


def test_a_weight_that_is_left_in_single_precision_breaks_the_promise(bound, monkeypatch):
    monkeypatch.setattr(LowerHalf, "call", LowerFloat.call)
    with pytest.raises(ir.passes.PostconditionError, match="is left in float32"):
        LowerHalf()(bound("llama"))


def test_operators_of_that_name_in_other_domains_are_left_alone():
    body = "g = other.Linear(x, w)  u = other.Linear(x, w2)  a = Sigmoid(g)  s = Mul(g, a)  y = Mul(s, u)"
    for graph_pass in (LowerFloat(), LowerInt8Blocks()):
        assert_leaves_alone(graph_pass, small_graph(body))


# Whole exports


@pytest.mark.parametrize(
    "settings",
    [
        {"recipes": (MLP_4_BIT,)},
        {"format": "both"},
        {"precision": "fp32"},
        {"format": "native", "gpu_layers": 1},
    ],
)
def test_two_exports_of_one_model_are_the_same_bytes(tiny_llama, tmp_path, settings):
    from dovetail_ort_export import ExportOptions, export_bundle

    for name in ("one", "two"):
        export_bundle(str(tiny_llama), tmp_path / name, ExportOptions(**settings))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    # Manifest, tokenizer and template; a graph with its weights for each format; front, its graph for chains, the rest.
    assert len(files) == 5 + 2 * (settings.get("format") == "both") + 4 * ("gpu_layers" in settings)
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert content(tmp_path / "one" / name) == content(tmp_path / "two" / name), name


def content(path):
    """The bytes of a file; of a manifest all but the seconds that a check took."""
    if path.name != "manifest.json":
        return path.read_bytes()
    return re.sub(rb'"seconds": [0-9.e-]+', b"", path.read_bytes())
