"""Transformations of a target graph, one class a file, and what they can know of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dovetail_ort_export.source.weights import NamedWeights
from dovetail_ort_runtime.arrays import FloatArray, TokenArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PassContext:
    """What an export knows and a graph does not say; a pass takes of it what it needs.

    Attributes:
        weights: of the model.
        cache_maxima: largest magnitude of each channel of keys and values, (Hkv * D,) by `{block}.key` and
            `{block}.value`, or None of a drafter.
        first_block: of the target that goes into this graph.
        end_block: the block after the last one, None for all that are left.
        draft_token_ids: (Vd,) int64, the tokens that a drafter's logits are of.
    """

    weights: NamedWeights
    cache_maxima: Mapping[str, FloatArray] | None = None
    first_block: int = 0
    end_block: int | None = None
    draft_token_ids: TokenArray | None = None


class OfExport:
    """A pass with this base is made for one export and takes what it needs to know from it.

    Args:
        context: of the export.
    """

    def __init__(self, context: PassContext) -> None:
        super().__init__()
        self._context = context
