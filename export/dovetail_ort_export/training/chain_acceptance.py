"""How many tokens of a chain the target accepts, measured on text it wrote itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail_ort_export.training.draft_head import DraftHead
from dovetail_ort_export.training.text_batches import TextBatch
from dovetail_ort_export.training.unrolling import Rotary, unroll


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
