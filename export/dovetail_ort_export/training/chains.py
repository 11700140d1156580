"""Chains that a head drafts from every position of a text at once: their steps, their loss and their acceptance.

It knows no optimiser and no files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from dovetail_ort_export.heads.unrolling import moved_on
from dovetail_ort_export.training.batches import TextBatch

# A chain's later steps count less, as they are reached less often (EAGLE-3, arXiv 2503.01840).
STEP_DECAY: Final = 0.8


def draft_loss(batch: TextBatch, steps: Iterable[Tensor], head: Tensor, feature_weight: float) -> Tensor:
    """Loss of drafted chains: cross-entropy of the tokens plus SmoothL1 of the features.

    The cross-entropy is against the target's distribution over the draft vocabulary. Each step's loss is the mean over
    the positions to learn from, and the steps are weighted by powers of `STEP_DECAY`.

    Args:
        batch: the text.
        steps: predicted features (B, T, E) of each step.
        head: (Vd, E), the rows of the target's head for the tokens that can be drafted.
        feature_weight: weight of the features' loss.

    Returns:
        One number, in nats.
    """
    wanted = batch.wanted_features[batch.is_learned]
    places = batch.is_learned.nonzero()[:, 1]
    with torch.no_grad():
        probabilities = functional.softmax((wanted @ head.T).float(), dim=-1)
    total = wanted.new_zeros(())
    weights = 0.0
    for step, predicted in enumerate(steps):
        # No chain of this length ends at the first positions.
        rows = places >= step
        features = predicted[batch.is_learned][rows]
        token_loss = functional.cross_entropy((features @ head.T).float(), probabilities[rows])
        feature_loss = functional.smooth_l1_loss(features.float(), wanted[rows])
        weight = STEP_DECAY**step
        total = total + weight * (token_loss + feature_weight * feature_loss)
        weights += weight
    return total / weights


@torch.no_grad()
def measure_acceptance(
    batches: Iterable[tuple[TextBatch, Iterable[Tensor]]], draft_head: Tensor, draft_token_ids: Tensor
) -> tuple[list[float], float]:
    """Draft greedily from true features, and compare with the tokens that the target chose.

    A chain counts up to its first wrong token. Up to there it has read the text itself, so one unrolled forward over a
    text drafts all of its chains.

    Args:
        batches: texts, each with the predicted features (B, T, E) of each step.
        draft_head: (Vd, E), the rows of the target's head for the tokens that can be drafted.
        draft_token_ids: (Vd,) int64, ids of these tokens.

    Returns:
        For each depth, the share of chains whose token was accepted, among the chains whose earlier tokens were all
        accepted. And the mean number of tokens a round, the bonus token included, if each round begins where the last
        one ended.
    """
    num_reached: Counter[int] = Counter()
    num_accepted: Counter[int] = Counter()
    rounds: list[int] = []
    for batch, steps in batches:
        # Accepted tokens of the chain that begins at each position.
        lengths = torch.zeros_like(batch.next_token_ids)
        # Positions of the chains that had no wrong token so far. In step j a chain is j positions after its beginning.
        alive = batch.in_answer
        for step, predicted in enumerate(steps):
            num_reached[step] += int(alive.sum())
            drafted = draft_token_ids[(predicted[alive] @ draft_head.T).argmax(-1)]
            alive = alive.masked_scatter(alive, drafted == batch.wanted_token_ids[alive])
            num_accepted[step] += int(alive.sum())
            num_begun = alive.shape[1] - step
            lengths[:, :num_begun] += alive[:, step:]
            alive = moved_on(alive) & batch.in_answer
        for row, in_answer in zip(lengths, batch.in_answer, strict=True):
            rounds += _tokens_by_round(row[in_answer].tolist())
    by_depth = [num_accepted[step] / max(number, 1) for step, number in num_reached.items()]
    return by_depth, sum(rounds) / max(len(rounds), 1)


def _tokens_by_round(lengths: Sequence[int]) -> list[int]:
    """New tokens of each round through an answer.

    Args:
        lengths: number of accepted tokens of the chain that begins at each position.

    Example: with lengths 2 0 1 1 0 the first round gives 3 tokens, its 2 and the bonus token. The second one begins at
    position 3 and gives 2.
    """
    rounds: list[int] = []
    place = 0
    while place < len(lengths):
        num_tokens = lengths[place] + 1
        rounds.append(num_tokens)
        place += num_tokens
    return rounds
