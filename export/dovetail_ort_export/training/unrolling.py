"""The steps of a chain, for every position of a text at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from dovetail_ort_export.training.draft_attention import Memory
from dovetail_ort_export.training.draft_head import DraftHead


class Rotary:
    """Rotary embedding of positions 0 to T - 1.

    Args:
        cos: (max_context, D / 2) float32.
        sin: likewise.
    """

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self._cos, self._sin = cos, sin

    def __call__(self, x: Tensor) -> Tensor:
        """(B, heads, T, D): each pair of channels i and i + D / 2 turned by its position's angle."""
        cos, sin = self._cos[: x.shape[2]], self._sin[: x.shape[2]]
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def unroll(head: DraftHead, features: Tensor, embeddings: Tensor, rotary: Rotary, num_steps: int) -> Iterator[Tensor]:
    """Predicted features of each step, (B, T, E): entry t of step j ends a chain of j + 1 steps at position t.

    Step 0 reads the true features, each later one what the step before predicted for the position. In step j the
    entries before position j are of no chain and mean nothing.

    Args:
        head: it predicts.
        features: (B, T, E), f_t.
        embeddings: (B, T, E), of token t + 1.
        rotary: of the target.
        num_steps: length of the chains.
    """
    memories = [Memory(rotary) for _ in head.layers]
    embedded = head.fusion.embed(embeddings)
    for _ in range(num_steps):
        predicted = head(features, embedded, memories)
        yield predicted
        features = functional.pad(predicted, (0, 0, 1, 0))[:, :-1]
