"""Products of one input become one, and what only resembles them is left alone."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dovetail_ort_export.passes.pack_products import PackGateUp, PackQkv


@pytest.mark.parametrize(("family", "biased"), [("llama", False), ("qwen2", True)])
def test_query_key_and_value_become_one_product_of_the_stacked_weights(bound, family, biased, operators):
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
def test_queries_and_keys_with_norms_of_their_own_are_split_in_front_of_them(bound, biased, operators):
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
def test_packing_query_key_and_value_twice_changes_nothing_more(bound, family, assert_leaves_alone):
    graph = bound(family)
    PackQkv()(graph)
    assert_leaves_alone(PackQkv(), graph)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_gate_and_up_become_one_product_of_the_stacked_weights(bound, family, operators):
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


def test_packing_gate_and_up_twice_changes_nothing_more(bound, assert_leaves_alone):
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
def test_what_only_resembles_a_gated_mlp_is_not_packed(body, assert_leaves_alone, small_graph):
    assert_leaves_alone(PackGateUp(), small_graph(body))
