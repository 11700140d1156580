"""A draft head as a drafter graph in one number format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.draft_tracing import trace_draft_head
from dovetail_ort_export.draft_weights import DraftWeights
from dovetail_ort_export.passes.bind_weights import BindWeights
from dovetail_ort_export.passes.fuse_skip_norm import FuseSkipNorm
from dovetail_ort_export.passes.lower_float import LowerFloat
from dovetail_ort_export.passes.lower_half import LowerHalf
from dovetail_ort_export.passes.lower_int8_blocks import LowerInt8Blocks
from dovetail_ort_export.passes.pack_gate_up import PackGateUp
from dovetail_ort_export.passes.pack_qkv import PackQkv
from dovetail_ort_export.passes.rank_candidates import RankCandidates
from dovetail_ort_export.target_ends import TargetEnds
from dovetail_ort_export.training.draft_head import DraftHead
from dovetail_ort_runtime.arrays import TokenArray

_LOWERINGS: Final[dict[str, Callable[[], ir.passes.InPlacePass]]] = {
    "int8": LowerInt8Blocks,
    "fp16": LowerHalf,
    "fp32": LowerFloat,
}


def drafter_graph(head: DraftHead, ends: TargetEnds, draft_token_ids: TokenArray, precision: str) -> ir.Model:
    """The graph that drafts with `head`.

    Args:
        head: float32, on the CPU.
        ends: of its target.
        draft_token_ids: (Vd,) int64, the tokens it can draft.
        precision: one of `DRAFTER_PRECISIONS`.
    """
    graph = trace_draft_head(
        head.config, vocabulary_size=len(ends.embedding), draft_vocabulary_size=len(draft_token_ids)
    )
    weights = DraftWeights(head, ends, draft_token_ids)
    passes = (
        BindWeights(weights),
        PackQkv(),
        PackGateUp(),
        FuseSkipNorm(),
        _LOWERINGS[precision](),
        RankCandidates(draft_token_ids),
    )
    for graph_pass in passes:
        graph = graph_pass(graph).model
    del graph.opset_imports["dovetail"]
    return graph
