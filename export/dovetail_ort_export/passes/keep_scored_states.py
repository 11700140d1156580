"""Give the predicted states of scored rows only: nothing is drafted after other rows, so those stay on the device."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dovetail_ort_export.passes.editing import by_name, input_of, producer_of
from dovetail_ort_runtime.bundle.graph_names import PREDICTED_STATES, SCORED_ROWS


class KeepScoredStates(ir.passes.InPlacePass):
    """A drafter's output `predicted_states`, (B, S, E), becomes (B, n, E): the rows that `scored_rows` names.

    Where the head reads the same choice of rows, it is made once. A graph without such an output, or with the choice
    made already, is left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Choose the rows before they are converted, if they are."""
        graph = model.graph
        states = by_name(graph.outputs).get(PREDICTED_STATES)
        rows = by_name(graph.inputs).get(SCORED_ROWS)
        if states is None or rows is None:
            return ir.passes.PassResult(model, False)
        last = producer_of(states)
        is_converted = last.op_type == "Cast"
        all_rows = input_of(last, 0) if is_converted else states
        if _chooses(producer_of(all_rows), rows):
            return ir.passes.PassResult(model, False)
        chosen = _chosen(graph, all_rows, rows)
        if is_converted:
            cast = ir.node("Cast", [chosen], last.attributes, name=f"{PREDICTED_STATES}/chosen/Cast")
            graph.append(cast)
            chosen = cast.outputs[0]
        _take_place(graph, states, chosen, rows)
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, True)


def _chooses(node: ir.Node, rows: ir.Value) -> bool:
    return node.op_type == "Gather" and node.inputs[1] is rows and node.attributes.get_int("axis", 0) == 1


def _chosen(graph: ir.Graph, all_rows: ir.Value, rows: ir.Value) -> ir.Value:
    """The chosen rows, from a choice that the graph has already or from a new one."""
    for node, _ in all_rows.uses():
        if _chooses(node, rows):
            return node.outputs[0]
    gather = ir.node("Gather", [all_rows, rows], {"axis": 1}, name=f"{PREDICTED_STATES}/chosen/Gather")
    graph.insert_after(producer_of(all_rows), gather)
    return gather.outputs[0]


def _take_place(graph: ir.Graph, states: ir.Value, chosen: ir.Value, rows: ir.Value) -> None:
    """Make the chosen states the output of this name."""
    assert states.shape is not None
    assert rows.shape is not None
    chosen.type = states.type
    chosen.shape = ir.Shape([states.shape[0], rows.shape[0], states.shape[2]])
    graph.outputs[graph.outputs.index(states)] = chosen
    states.name = f"{PREDICTED_STATES}_of_all_rows"
    chosen.name = PREDICTED_STATES
