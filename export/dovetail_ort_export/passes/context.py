"""What a pass can know about the export that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dovetail_ort_runtime.arrays import FloatArray, TokenArray

if TYPE_CHECKING:  # it needs torch, which a list of passes does not
    from dovetail_ort_export.source.weights import NamedWeights


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PassContext:
    """Facts that an export knows and a graph does not state. A pass uses those that it needs.

    Attributes:
        weights: weights of the model, by the names in the skeleton.
        cache_maxima: largest magnitude of each channel of keys and values, (Hkv * D,) float32, by `{block}.key` and
            `{block}.value`; None in the export of a drafter.
        first_block: number of the target's first block that goes into this graph.
        end_block: number of the block after the last one that goes into this graph; None takes all that are left.
        draft_token_ids: (Vd,) int64, tokens that a drafter's logits are of; None in the export of a target.
    """

    weights: NamedWeights
    cache_maxima: Mapping[str, FloatArray] | None = None
    first_block: int = 0
    end_block: int | None = None
    draft_token_ids: TokenArray | None = None


class ExportPass:
    """Base of a pass that runs in an export only, and needs its context.

    Args:
        context: what the export knows.
    """

    def __init__(self, context: PassContext) -> None:
        super().__init__()
        self._context = context
