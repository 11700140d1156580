"""Chains that a head drafts from every position of a text at once: their steps, their loss, what the target accepts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from dovetail_ort_export.training.draft_head import DraftHead, Memory
from dovetail_ort_export.training.training_text import TextBatch


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


# A chain's later steps count less, as they are reached less often (EAGLE-3, arXiv 2503.01840).
STEP_DECAY: Final = 0.8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DraftLoss:
    """Cross-entropy against the target's distribution over the draft vocabulary, plus SmoothL1 of the features.

    Attributes:
        head: (Vd, E), the rows of the target's head that can be drafted.
        feature_weight: of SmoothL1, the mean over channels.
    """

    head: Tensor
    feature_weight: float

    def __call__(self, batch: TextBatch, steps: Iterable[Tensor]) -> Tensor:
        """Mean over the positions to learn from, steps weighted by powers of `STEP_DECAY`."""
        wanted = batch.wanted_features[batch.is_learned]
        with torch.no_grad():
            probabilities = functional.softmax((wanted @ self.head.T).float(), dim=-1)
        total, weights = wanted.new_zeros(()), 0.0
        places = torch.arange(batch.is_learned.shape[1], device=wanted.device).expand_as(batch.is_learned)
        places = places[batch.is_learned]
        for step, predicted in enumerate(steps):
            # The first positions are behind no chain of this length.
            rows = places >= step
            loss = self._of_rows(predicted[batch.is_learned][rows], wanted[rows], probabilities[rows])
            total = total + STEP_DECAY**step * loss
            weights += STEP_DECAY**step
        return total / weights

    def _of_rows(self, predicted: Tensor, wanted: Tensor, probabilities: Tensor) -> Tensor:
        log_q = functional.log_softmax((predicted @ self.head.T).float(), dim=-1)
        tokens = -(probabilities * log_q).sum(-1).mean()
        return tokens + self.feature_weight * functional.smooth_l1_loss(predicted.float(), wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainAcceptance:
    """Chains from every position of some answers.

    Attributes:
        by_depth: entry j is the share of chains whose token j + 1 was accepted after all before it were.
        accepted_length: mean tokens a round with chains of that length, the bonus token included, when each round
            begins where the last one ended.
    """

    by_depth: tuple[float, ...]
    accepted_length: float


@torch.no_grad()
def measure_acceptance(
    head: DraftHead,
    batches: Iterable[TextBatch],
    embedding: Tensor,
    draft_head: Tensor,
    draft_token_ids: Tensor,
    rotary: Rotary,
    num_steps: int,
) -> ChainAcceptance:
    """Draft greedily from true features and compare with the tokens that the target chose.

    A chain counts up to its first wrong token, and up to there it has read the text itself: so one unrolled pass over
    a text drafts all of its chains.

    Args:
        head: it drafts.
        batches: of answers.
        embedding: (V, E), the target's.
        draft_head: (Vd, E), the rows of the target's head that can be drafted.
        draft_token_ids: (Vd,) int64, their token ids.
        rotary: of the target.
        num_steps: length of the chains.
    """
    reached, kept = [0] * num_steps, [0] * num_steps
    rounds = tokens = 0
    for batch in batches:
        steps = unroll(head, batch.features, embedding[batch.next_token_ids], rotary, num_steps)
        right = torch.stack(
            [draft_token_ids[(step @ draft_head.T).argmax(-1)] == batch.wanted_token_ids for step in steps]
        )
        for row in range(right.shape[1]):
            places = batch.in_answer[row].nonzero()[:, 0].tolist()
            first, end = places[0], places[-1] + 1
            lengths = _accepted(right[:, row].tolist(), first, end)
            for place, length in enumerate(lengths, first):
                for depth in range(min(length + 1, num_steps, end - place)):
                    reached[depth] += 1
                    kept[depth] += depth < length
            row_rounds, row_tokens = _walk(lengths)
            rounds, tokens = rounds + row_rounds, tokens + row_tokens
    by_depth = tuple(right / max(total, 1) for right, total in zip(kept, reached, strict=True))
    return ChainAcceptance(by_depth=by_depth, accepted_length=tokens / max(rounds, 1))


def _accepted(right: Sequence[Sequence[bool]], first: int, end: int) -> list[int]:
    """Accepted tokens of the chain that starts at each position from `first` to `end`, exclusive."""
    lengths = []
    for start in range(first, end):
        steps = range(min(len(right), end - start))
        lengths.append(next((step for step in steps if not right[step][start + step]), len(steps)))
    return lengths


def _walk(lengths: Sequence[int]) -> tuple[int, int]:
    """Rounds, and tokens they gave, when one begins where the other ended."""
    place = rounds = 0
    while place < len(lengths):
        place += lengths[place] + 1
        rounds += 1
    return rounds, place
