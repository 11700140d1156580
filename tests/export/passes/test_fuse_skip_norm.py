"""Residual additions and the norms that read them become one operator."""

from __future__ import annotations

import pytest

from dovetail_ort_export.passes.fuse_skip_norm import FuseSkipNorm

NORM = "SimplifiedLayerNormalization <axis = -1, epsilon = 0.001>"


def test_a_residual_addition_and_its_norm_become_one_operator(operators, small_graph):
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
def test_an_addition_or_a_norm_alone_is_not_fused(body, assert_leaves_alone, small_graph):
    assert_leaves_alone(FuseSkipNorm(), small_graph(body))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_every_residual_addition_of_a_model_is_fused(bound, family, operators):
    graph = bound(family)
    norms = operators(graph)["SimplifiedLayerNormalization"]
    FuseSkipNorm()(graph)
    found = operators(graph)
    # Two residual additions a block; only the first block's first norm reads no sum.
    assert found["SkipSimplifiedLayerNormalization"] == 4
    assert found["SimplifiedLayerNormalization"] == norms - 4
    # What is left to add are biases.
    assert found["Add"] == (2 * 3 if family == "qwen2" else 0)
