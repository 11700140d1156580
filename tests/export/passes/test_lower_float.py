"""Products and embedding in float32 and in half precision."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dovetail_ort_export.passes.lower_float import LowerFloat, LowerHalf


def test_float_lowering_replaces_products_and_embedding_and_nothing_else(bound, operators):
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


def test_a_weight_that_is_left_in_single_precision_breaks_the_promise(bound, monkeypatch):
    monkeypatch.setattr(LowerHalf, "call", LowerFloat.call)
    with pytest.raises(ir.passes.PostconditionError, match="is left in float32"):
        LowerHalf()(bound("llama"))
