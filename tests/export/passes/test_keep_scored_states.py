"""The predicted states of scored rows alone."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from dovetail_ort_export.passes.keep_scored_states import KeepScoredStates
from dovetail_ort_export.writing.graph_file import load_graph
from dovetail_ort_runtime.bundle.bundle import Bundle


def drafter_like(*, converted, chosen):
    """A graph whose states may be converted for the output, and may be read by a head in chosen rows."""
    x, rows = ir.val("x", ir.DataType.FLOAT16, ["b", "s", 8]), ir.val("scored_rows", ir.DataType.INT64, ["n"])
    norm = ir.node("Identity", [x], name="norm")
    states, outputs, made = norm.outputs[0], [], [norm]
    states.type = x.type
    if chosen:
        made.append(ir.node("Gather", [states, rows], {"axis": 1}, name="chosen"))
        made.append(ir.node("Identity", made[-1].outputs, name="head"))
        made[-1].outputs[0].name = "logits"
        outputs.append(made[-1].outputs[0])
    if converted:
        made.append(ir.node("Cast", [states], {"to": ir.DataType.FLOAT}, name="single"))
        states = made[-1].outputs[0]
        states.type = ir.TensorType(ir.DataType.FLOAT)
    states.name, states.shape = "predicted_states", ir.Shape(["b", "s", 8])
    graph = ir.Graph([x, rows], [*outputs, states], nodes=made, opset_imports={"": 18})
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("converted", [True, False])
@pytest.mark.parametrize("chosen", [True, False])
def test_predicted_states_are_those_of_the_scored_rows_chosen_once_and_before_they_are_converted(
    converted, chosen, assert_leaves_alone
):
    model = drafter_like(converted=converted, chosen=chosen)
    assert KeepScoredStates()(model).modified
    expected = ["Identity", "Gather"] + ["Identity"] * chosen + ["Cast"] * converted
    assert [node.op_type for node in model.graph] == expected
    states = model.graph.outputs[-1]
    assert (states.name, list(states.shape)) == ("predicted_states", ["b", "n", 8])
    assert states.dtype == (ir.DataType.FLOAT if converted else ir.DataType.FLOAT16)
    source = states.producer().inputs[0].producer() if converted else states.producer()
    assert source.op_type == "Gather"
    assert_leaves_alone(KeepScoredStates(), model)


def test_a_graph_without_predicted_states_is_left_alone(tiny_bundle_portable, assert_leaves_alone):
    bundle = Bundle(tiny_bundle_portable)
    assert_leaves_alone(KeepScoredStates(), load_graph(bundle.path(bundle.manifest.target.graph)))
