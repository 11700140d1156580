"""Compute the logits of chosen rows only: the head, the largest product, skips all other rows."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from dovetail_ort_export.passes.editing import by_name, producer_of
from dovetail_ort_export.tracing.axes import SCORED
from dovetail_ort_runtime.bundle.graph_names import HIDDEN_STATES, LOGITS, SCORED_ROWS, is_past

# Name of the value inside the graph that the head reads.
SCORED_STATES: Final = "scored_states"


class ScoreRows(ir.passes.InPlacePass):
    """Inserts a Gather of rows between the final norm and the head.

    The input `scored_rows` (n,) int64 says which rows; `logits` become (B, n, V), `hidden_states` keep all rows. A
    graph that does not end in a head, or chooses its rows already, is left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the choice."""
        graph = model.graph
        ends = _ends(model)
        if ends is None:
            return ir.passes.PassResult(model, False)
        states, logits = ends
        rows = ir.val(SCORED_ROWS, ir.DataType.INT64, [SCORED])
        before_caches = sum(not is_past(str(value.name)) for value in graph.inputs)
        graph.inputs.insert(before_caches, rows)
        assert states.shape is not None
        assert logits.shape is not None
        chosen = ir.val(SCORED_STATES, states.dtype, ir.Shape([states.shape[0], SCORED, states.shape[2]]))
        logits.shape = ir.Shape([logits.shape[0], SCORED, logits.shape[2]])
        for node, index in states.uses():
            node.replace_input_with(index, chosen)
        gather = ir.node("Gather", [states, rows], {"axis": 1}, name="scored_rows/Gather", outputs=[chosen])
        graph.insert_after(producer_of(states), gather)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """Check that rows are chosen before the head, if there is one.

        Raises:
            PostconditionError: rows are not chosen before the head.
        """
        states = by_name(model.graph.outputs).get(HIDDEN_STATES)
        if _ends(model) or (states is not None and len(states.uses()) > 1):
            raise ir.passes.PostconditionError(f"more than the choice of rows reads {HIDDEN_STATES}")


def _ends(model: ir.Model) -> tuple[ir.Value, ir.Value] | None:
    """Hidden states and logits of a graph that has both and computes the logits of all rows."""
    outputs = by_name(model.graph.outputs)
    states = outputs.get(HIDDEN_STATES)
    logits = outputs.get(LOGITS)
    if states is None or logits is None or SCORED_ROWS in by_name(model.graph.inputs):
        return None
    return states, logits
