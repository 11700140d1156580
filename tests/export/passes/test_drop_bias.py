"""Attention loses its bias, and nothing else."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from dovetail_ort_export.passes.drop_bias import DropBias
from dovetail_ort_export.pipeline import make_pass, run_pass
from dovetail_ort_export.recipe import Step
from dovetail_ort_runtime.errors import InputError


def attention(*, readers=(), last_inputs=()):
    """A graph of one attention whose bias is converted twice."""
    bias = ir.val("attention_bias", ir.DataType.FLOAT, ["b", 1, "s", "t"])
    x = ir.val("x", ir.DataType.FLOAT, ["b", "s", 8])
    half = ir.node("Cast", [bias], {"to": ir.DataType.FLOAT16}, name="half")
    again = ir.node("Cast", half.outputs, {"to": ir.DataType.FLOAT}, name="again")
    inputs = [x, *[None] * 9, again.outputs[0], *last_inputs]
    attend = ir.node("GroupQueryAttention", inputs, {"num_heads": 1}, domain="com.microsoft", name="attend")
    others = [ir.node(op_type, [half.outputs[0]], name=op_type) for op_type in readers]
    graph = ir.Graph(
        [x, bias], attend.outputs, nodes=[half, again, attend, *others], opset_imports={"": 18, "com.microsoft": 1}
    )
    return ir.Model(graph, ir_version=10)


def test_the_bias_goes_with_all_its_conversions_and_no_other_input_of_the_attention():
    model = attention()
    assert DropBias()(model).modified
    (attend,) = model.graph
    assert [value and value.name for value in attend.inputs] == ["x"]
    assert [value.name for value in model.graph.inputs] == ["x"]

    sink = ir.val("sink", ir.DataType.FLOAT, [1])
    model = attention(last_inputs=[sink])
    DropBias()(model)
    (attend,) = model.graph
    assert attend.inputs[10:] == (None, sink)


def test_a_graph_without_a_bias_is_left_alone(assert_leaves_alone):
    model = attention()
    DropBias()(model)
    assert_leaves_alone(DropBias(), model)


def test_a_bias_that_something_else_reads_is_refused():
    with pytest.raises(InputError, match="the pass drop-bias does not fit this graph: Softmax reads"):
        run_pass(attention(readers=["Softmax"]), "drop-bias", make_pass(Step("drop-bias")))
