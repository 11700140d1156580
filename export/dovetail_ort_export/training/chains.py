"""Chains that a head drafts from every position of a text at once: their steps, their loss, what the target accepts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from dovetail_ort_export.heads.draft_head import DraftHead, Memory
from dovetail_ort_export.training.batches import TextBatch


@dataclass(frozen=True, slots=True, eq=False)
class Rotary:
    """Rotary embedding of positions 0 to T - 1; `cos` and `sin` are (max_context, D / 2) float32."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(B, heads, T, D): each pair of channels i and i + D / 2 turned by its position's angle."""
        cos, sin = self.cos[: x.shape[2]], self.sin[: x.shape[2]]
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def unroll(head: DraftHead, features: Tensor, embeddings: Tensor, rotary: Rotary, num_steps: int) -> Iterator[Tensor]:
    """Predicted features of each step, (B, T, E): entry t of step j ends a chain of j + 1 steps at position t.

    Step 0 reads the true `features` f_t, each later one what the step before predicted for the position; `embeddings`
    are those of token t + 1. Both are (B, T, E). In step j the entries before position j are of no chain and mean
    nothing.
    """
    memories = [Memory(rotary) for _ in head.layers]
    embedded = head.fusion.embed(embeddings)
    for _ in range(num_steps):
        predicted = head(features, embedded, memories)
        yield predicted
        features = functional.pad(predicted, (0, 0, 1, 0))[:, :-1]


# A chain's later steps count less, as they are reached less often (EAGLE-3, arXiv 2503.01840).
STEP_DECAY: Final = 0.8


def draft_loss(batch: TextBatch, steps: Iterable[Tensor], head: Tensor, feature_weight: float) -> Tensor:
    """Cross-entropy against the target's distribution over the draft vocabulary, plus SmoothL1 of the features.

    `steps` are the predicted features (B, T, E) of each, `head` (Vd, E) the rows of the target's head that can be
    drafted. The mean is over the positions to learn from, steps weighted by powers of `STEP_DECAY`.
    """
    wanted, places = batch.wanted_features[batch.is_learned], batch.is_learned.nonzero()[:, 1]
    with torch.no_grad():
        probabilities = functional.softmax((wanted @ head.T).float(), dim=-1)
    total, weights = wanted.new_zeros(()), 0.0
    for step, predicted in enumerate(steps):
        # The first positions are behind no chain of this length.
        rows = places >= step
        features = predicted[batch.is_learned][rows]
        tokens = functional.cross_entropy((features @ head.T).float(), probabilities[rows])
        loss = tokens + feature_weight * functional.smooth_l1_loss(features.float(), wanted[rows])
        total = total + STEP_DECAY**step * loss
        weights += STEP_DECAY**step
    return total / weights


@torch.no_grad()
def measure_acceptance(
    batches: Iterable[tuple[TextBatch, Iterable[Tensor]]], draft_head: Tensor, draft_token_ids: Tensor
) -> tuple[list[float], float]:
    """Draft greedily from true features and compare with the tokens that the target chose.

    A chain counts up to its first wrong token, and has read the text itself up to there: so one unrolled pass over a
    text drafts all of its chains. `batches` are texts with the predicted features (B, T, E) of each step,
    `draft_head` (Vd, E) and `draft_token_ids` (Vd,) int64 what can be drafted.

    Returns:
        The share of chains whose token was accepted if all before were, by depth; and tokens a round, the bonus token
        included, when each begins where the last one ended.
    """
    reached: Counter[int] = Counter()
    kept: Counter[int] = Counter()
    rounds = tokens = 0
    for batch, steps in batches:
        lengths = torch.zeros_like(batch.next_token_ids)
        # Where chains stand that had no wrong token so far; step j of a chain stands j positions on.
        alive = batch.in_answer
        for step, predicted in enumerate(steps):
            reached[step] += int(alive.sum())
            drafted = draft_token_ids[(predicted[alive] @ draft_head.T).argmax(-1)]
            alive = alive.masked_scatter(alive, drafted == batch.wanted_token_ids[alive])
            kept[step] += int(alive.sum())
            lengths[:, : alive.shape[1] - step] += alive[:, step:]
            alive = functional.pad(alive, (1, 0))[:, :-1] & batch.in_answer
        for row, in_answer in zip(lengths, batch.in_answer, strict=True):
            given = _tokens_by_round(row[in_answer].tolist())
            rounds, tokens = rounds + len(given), tokens + sum(given)
    return [kept[step] / max(total, 1) for step, total in reached.items()], tokens / max(rounds, 1)


def _tokens_by_round(lengths: Sequence[int]) -> list[int]:
    """Through an answer, from the accepted tokens of the chain at each position."""
    given: list[int] = []
    while (place := sum(given)) < len(lengths):
        given.append(lengths[place] + 1)
    return given
