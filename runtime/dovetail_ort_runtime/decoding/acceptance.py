"""Which draft tokens stay after the target has read them. It knows no sessions and no cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, ProbabilityArray
from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal
from dovetail_ort_runtime.sampler import Sampler, SeenArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Acceptance:
    """What one round decides.

    Example, the tree of `Proposal` where the target says "dog barks": rows (0, 3), token_ids (dog, barks).

    Attributes:
        rows: rows of the target's forward that are kept, a path from the root. Row 0 is the root, and row `i + 1` is
            draft token `i`.
        token_ids: as many new tokens: the accepted draft tokens, then the bonus token. The target has not read the
            bonus token, which is the next round's root.
    """

    rows: tuple[int, ...]
    token_ids: tuple[int, ...]


def accept(proposal: Proposal, logits: FloatArray, sampler: Sampler, seen: SeenArray | None = None) -> Acceptance:
    """Walk down the proposal as far as the target agrees; the tokens are distributed as without speculation.

    Args:
        proposal: K draft tokens. If they are sampled, child `i` of a node must be drawn from `probabilities[i]`
            independently of its siblings (with replacement), and siblings must stand in the order of the draws,
            duplicates included: a tree that is sorted, pruned or cleaned of duplicates after sampling shifts the
            distribution.
        logits: (1 + K, V) float32, or more rows: logits of the root, then of each draft token.
        sampler: chooses the tokens, with one uniform number each unless the proposal is sampled, and learns of them.
        seen: (V,) bool, the tokens of prompt and answer up to the root. The new tokens are marked in it.
    """
    is_sampled = proposal.probabilities is not None and not sampler.options.is_greedy
    decide = _test_draft_tokens if is_sampled else _choose_token
    rows: list[int] = []
    token_ids: list[int] = []
    node: int | None = ROOT
    while node is not None:
        rows.append(node + 1)
        token_id, node = decide(proposal, node, logits[node + 1], sampler, seen)
        token_ids.append(token_id)
        sampler.advance(token_id)
        if seen is not None:
            seen[token_id] = True
    return Acceptance(rows=tuple(rows), token_ids=tuple(token_ids))


def _choose_token(
    proposal: Proposal, node: int, logits: FloatArray, sampler: Sampler, seen: SeenArray | None
) -> tuple[int, int | None]:
    """The target's own token after `node`, and the child that holds it."""
    # Rejection sampling visits the children in order, accepts x with p(x), and on rejection sets p(x) = 0 and
    # renormalises. The factors 1 - p(x) cancel: child x is taken with p(x), any other token y with p(y). One draw
    # from p does the same, and since decoding without speculation makes the same draw, equal seeds give equal tokens.
    token_id = sampler.choose(logits, seen)
    for child in proposal.children(node):
        if proposal.token_ids[child] == token_id:
            return token_id, child
    return token_id, None


def _test_draft_tokens(
    proposal: Proposal, node: int, logits: FloatArray, sampler: Sampler, seen: SeenArray | None
) -> tuple[int, int | None]:
    """The token after `node` by recursive rejection sampling (SpecInfer, arXiv 2305.09781, algorithm 2)."""
    assert proposal.probabilities is not None
    p = sampler.distribution(logits, seen)
    for child in proposal.children(node):
        token_id = int(proposal.token_ids[child])
        q = proposal.probabilities[child].astype(np.float64)
        q /= q.sum()
        # Accept x with min(1, p(x) / q(x)).
        if sampler.uniform() * q[token_id] < p[token_id]:
            return token_id, child
        p = residual_distribution(p, q)
    return sampler.draw(p), None


def residual_distribution(p: ProbabilityArray, q: ProbabilityArray) -> ProbabilityArray:
    """norm(max(p - q, 0)), (V,) float64."""
    residual = np.maximum(p - q, 0)
    total = residual.sum()
    # Nothing is left only where p and q differ by rounding.
    return residual / total if total > 0 else p
