"""Chains that a head drafts from every position of a text at once. It knows no loss, and no text."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional

from dovetail_ort_export.heads.draft_head import BlockCache, DraftHead
from dovetail_ort_export.heads.eagle3 import Eagle3Head
from dovetail_ort_export.heads.rotary import RotaryTables


def unroll(
    head: DraftHead | Eagle3Head, features: Tensor, embeddings: Tensor, rotary: RotaryTables, num_steps: int
) -> Iterator[Tensor]:
    """Draft a chain from every position of a text.

    Args:
        head: the head that drafts.
        features: (B, T, E), the target's feature f_t of each position t, which the first step reads. Each later step
            reads what the step before predicted for its position.
        embeddings: (B, T, E), embedding of token t + 1 of each position t.
        rotary: rotary embedding of the head's attention.
        num_steps: number of steps of a chain, 1 or more.

    Returns:
        Predicted features (B, T, E) of each step j, counted from 0. Entry t is the end of a chain of j + 1 steps that
        stands at position t. Entries before position j belong to no chain and mean nothing.
    """
    caches = [BlockCache(rotary) for _ in head.layers]
    embedded = head.embed(embeddings)
    for _ in range(num_steps):
        predicted = head(features, embedded, caches)
        yield predicted
        features = moved_on(predicted)


def moved_on(values: Tensor) -> Tensor:
    """`values` (B, T) or (B, T, E) one position further on, with zeros at the first position."""
    padding = (0, 0) * (values.ndim - 2) + (1, 0)
    return functional.pad(values, padding)[:, :-1]
