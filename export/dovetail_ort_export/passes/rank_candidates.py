"""From logits to the few tokens worth drafting: only ids and scores leave the device."""

from __future__ import annotations

import onnx_ir as ir

from dovetail_ort_export.passes import OfExport, PassContext, nodes
from dovetail_ort_runtime.errors import InputError


class RankCandidates(OfExport, ir.passes.InPlacePass):
    """logits -> LogSoftmax in float32, TopK, ids of the target's vocabulary.

    The output `logits` gives way to `candidate_log_probabilities` and `candidate_ids`, (B, n, k) each, best first; the
    input `num_candidates` (1,) int64 is k.

    Args:
        context: of a drafter's export.

    Raises:
        InputError: it is the export of a target.
    """

    def __init__(self, context: PassContext) -> None:
        super().__init__(context)
        if context.draft_token_ids is None:
            raise InputError("the pass rank-candidates must stand in a drafter's recipe, got a target's")
        self._draft_token_ids = context.draft_token_ids

    def requires(self, model: ir.Model) -> None:
        """There are logits to rank, and nothing ranks them yet."""
        if "logits" not in nodes.by_name(model.graph.outputs):
            raise ir.passes.PreconditionError("no output called logits")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Append the ranking."""
        graph = model.graph
        logits = nodes.by_name(graph.outputs)["logits"]
        num_candidates = ir.val("num_candidates", ir.DataType.INT64, [1])
        graph.inputs.append(num_candidates)
        ids = nodes.constant(model, "draft_token_ids", self._draft_token_ids)
        log_softmax = ir.node("LogSoftmax", [logits], {"axis": -1})
        # Without `sorted` ties come in any order; with it, the lower index comes first.
        top = ir.node("TopK", [log_softmax.outputs[0], num_candidates], {"axis": -1, "sorted": 1}, num_outputs=2)
        gather = ir.node("Gather", [ids, top.outputs[1]], {"axis": 0})
        nodes.label([log_softmax, top, gather], "candidates")
        graph.extend([log_softmax, top, gather])
        logits.name = "draft_logits"
        best, best_ids = top.outputs[0], gather.outputs[0]
        best.name, best.type = "candidate_log_probabilities", ir.TensorType(ir.DataType.FLOAT)
        best_ids.name, best_ids.type = "candidate_ids", ir.TensorType(ir.DataType.INT64)
        best.shape = best_ids.shape = ir.Shape(["batch_size", "num_scored_rows", "num_candidates"])
        graph.outputs[graph.outputs.index(logits)] = best
        graph.outputs.insert(1, best_ids)
        return ir.passes.PassResult(model, True)
