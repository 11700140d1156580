"""From logits to the few tokens worth drafting: only ids and scores leave the device."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from dovetail_ort_export.passes.context import ExportPass, PassContext
from dovetail_ort_export.passes.editing import by_name, constant, label
from dovetail_ort_export.tracing.axes import BATCH, SCORED
from dovetail_ort_runtime.bundle.graph_names import (
    CANDIDATE_IDS,
    CANDIDATE_LOG_PROBABILITIES,
    LOGITS,
    NUM_CANDIDATES,
)
from dovetail_ort_runtime.errors import InputError

# Names of values inside the graph.
_TOKEN_IDS: Final = "draft_token_ids"
_LOGITS: Final = "draft_logits"


class RankCandidates(ExportPass, ir.passes.InPlacePass):
    """logits -> LogSoftmax in float32, TopK, ids of the target's vocabulary.

    The outputs `candidate_log_probabilities` and `candidate_ids`, (B, n, k) each, best first, replace `logits`; the
    input `num_candidates` (1,) int64 is k.

    Args:
        context: what the export of a drafter knows.

    Raises:
        InputError: it is the export of a target.
    """

    def __init__(self, context: PassContext) -> None:
        super().__init__(context)
        if context.draft_token_ids is None:
            raise InputError("the pass rank-candidates is for a drafter's recipe; leave it out of a target's")
        self._draft_token_ids = context.draft_token_ids

    def requires(self, model: ir.Model) -> None:
        """Check that there are logits, which nothing ranks yet.

        Raises:
            PreconditionError: there are no logits.
        """
        if LOGITS not in by_name(model.graph.outputs):
            raise ir.passes.PreconditionError(f"no output called {LOGITS}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Append the ranking."""
        graph = model.graph
        logits = by_name(graph.outputs)[LOGITS]
        num_candidates = ir.val(NUM_CANDIDATES, ir.DataType.INT64, [1])
        graph.inputs.append(num_candidates)
        ids = constant(model, _TOKEN_IDS, self._draft_token_ids)
        log_softmax = ir.node("LogSoftmax", [logits], {"axis": -1})
        # Without `sorted` ties come in any order; with it, the lower index comes first.
        top = ir.node("TopK", [log_softmax.outputs[0], num_candidates], {"axis": -1, "sorted": 1}, num_outputs=2)
        gather = ir.node("Gather", [ids, top.outputs[1]], {"axis": 0})
        label([log_softmax, top, gather], "candidates")
        graph.extend([log_softmax, top, gather])
        logits.name = _LOGITS
        best = _described(top.outputs[0], CANDIDATE_LOG_PROBABILITIES, ir.DataType.FLOAT)
        best_ids = _described(gather.outputs[0], CANDIDATE_IDS, ir.DataType.INT64)
        graph.outputs[graph.outputs.index(logits)] = best
        graph.outputs.insert(1, best_ids)
        return ir.passes.PassResult(model, True)


def _described(output: ir.Value, name: str, dtype: ir.DataType) -> ir.Value:
    output.name = name
    output.type = ir.TensorType(dtype)
    output.shape = ir.Shape([BATCH, SCORED, NUM_CANDIDATES])
    return output
