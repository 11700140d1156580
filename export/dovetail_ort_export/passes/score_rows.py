"""Logits of chosen rows only: the head, the largest product, is spared the rows that nobody asks about."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from dovetail_ort_export.passes import nodes

SCORED_ROWS: Final = "scored_rows"
SCORED_STATES: Final = "scored_states"
_NUM_SCORED: Final = "num_scored_rows"


class ScoreRows(ir.passes.InPlacePass):
    """A Gather of rows between the final norm and whatever leads to the head.

    The input `scored_rows` (n,) int64 says which rows; `logits` become (B, n, V), `hidden_states` keep all rows. A
    graph that does not end in a head, or chooses its rows already, is left alone.
    """

    def requires(self, model: ir.Model) -> None:
        """What the head reads has no scales by row yet: their zero points are as many as all rows."""
        if ends := _ends(model):
            behind = nodes.values_behind(model, ends[0])
            for node in nodes.find(model, "QuantizeLinear", ""):
                if node.inputs[0] in behind:
                    raise ir.passes.PreconditionError(f"{node.name} comes first; score-rows stands before what lowers")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the choice."""
        graph, ends = model.graph, _ends(model)
        if ends is None:
            return ir.passes.PassResult(model, False)
        states, logits = ends
        rows = ir.Value(name=SCORED_ROWS, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([_NUM_SCORED]))
        graph.inputs.insert(_num_row_inputs(graph), rows)
        gather = ir.node("Gather", [states, rows], {"axis": 1}, name="scored_rows/Gather")
        chosen = gather.outputs[0]
        assert states.shape is not None
        assert logits.shape is not None
        chosen.name, chosen.type = SCORED_STATES, states.type
        chosen.shape = ir.Shape([states.shape[0], _NUM_SCORED, states.shape[2]])
        logits.shape = ir.Shape([logits.shape[0], _NUM_SCORED, logits.shape[2]])
        for node, index in states.uses():
            node.replace_input_with(index, chosen)
        gather.replace_input_with(0, states)
        graph.insert_after(nodes.producer_of(states), gather)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """Rows are chosen before the head, if there is one."""
        for output in model.graph.outputs:
            if output.name == "hidden_states" and len(output.uses()) > 1:
                raise ir.passes.PostconditionError("more than the choice of rows reads hidden_states")


def _ends(model: ir.Model) -> tuple[ir.Value, ir.Value] | None:
    """Hidden states and logits of a graph that has both and computes the logits of all rows."""
    outputs = {str(output.name): output for output in model.graph.outputs}
    if not {"hidden_states", "logits"} <= outputs.keys() or any(
        value.name == SCORED_ROWS for value in model.graph.inputs
    ):
        return None
    return outputs["hidden_states"], outputs["logits"]


def _num_row_inputs(graph: ir.Graph) -> int:
    """Inputs that stand before the caches."""
    return sum(not str(value.name).startswith("past_key_values.") for value in graph.inputs)
