"""How much is drafted in each round, and by whom: what pays by measured times and observed acceptance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.drafting.acceptance_rates import LONGEST_MATCH, AcceptanceRates, DecayingRatio
from dovetail_ort_runtime.drafting.drafter import Drafter, ModelDrafter, TreeDrafter
from dovetail_ort_runtime.drafting.prompt_lookup import Match, PromptLookup
from dovetail_ort_runtime.drafting.proposal import NOTHING, ROOT, Proposal
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.session import SessionReport
from dovetail_ort_runtime.options import SamplingOptions
from dovetail_ort_runtime.planning.time_curves import TimeCurves

_RATE_WEIGHT: Final = 8.0
_RATE_HALF_LIFE: Final = 96
# The source that seems worse is tried in one round of so many.
_OTHER_SOURCE_EVERY: Final = 24
# Rounds without the model, once it loses, before one token is drafted to see whether it still does.
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 128
_DEEPEST: Final = 16
# Candidates of a node of a tree.
_WIDTH: Final = 4
# Reading a prompt is not the price of one round.
_MOST_UNREAD: Final = 8
# Kept tokens after which the curves are read anew.
_CONTEXT_STEP: Final = 64


class Planner(Drafter):
    """Drafts with prompt lookup or a model, as many tokens as pay: chains, or trees where side branches may be kept.

    The aim is the most tokens per millisecond over all rounds. At the rate r that is being reached, a draft token pays
    if it is accepted with a probability above r times the milliseconds that it adds (Dinkelbach's condition for the
    best ratio). Milliseconds come from `TimeCurves`, probabilities from the drafter, corrected by how often such
    promises were kept, or for a copy from how often copies after such a match were right. The model drafts where its
    past rounds in such places gained more than a copy promises, and neither does where both would lose.

    Args:
        curves: of this machine.
        lookup: copies, if it may.
        model: drafts, if there is one.
        trees: the same model, if it drafts trees and the target keeps side branches.
    """

    def __init__(
        self,
        curves: TimeCurves,
        *,
        lookup: PromptLookup | None = None,
        model: ModelDrafter | None = None,
        trees: TreeDrafter | None = None,
    ) -> None:
        self.curves = curves
        self.lookup = lookup
        self.model = model
        self._trees = trees
        self._record = AcceptanceRates()
        plain_ms = curves.verify(1, 0)
        self._rate = DecayingRatio(1 / plain_ms, _RATE_WEIGHT * plain_ms, _RATE_HALF_LIFE)
        self._pause, self._idle_rounds, self._matched_rounds = _FIRST_PAUSE, 0, 0
        self._length = self._unread = 0
        self._pending: _Round | None = None
        self._priced_at = -1
        self._extra_ms: list[float] = []

    def begin(self, sampling: SamplingOptions) -> None:
        """Tell both drafters; what was learned stays."""
        for drafter in self._drafters():
            drafter.begin(sampling)

    def reports(self) -> tuple[SessionReport, ...]:
        """The model's session."""
        return () if self.model is None else self.model.reports()

    def rewind(self, length: int) -> None:
        """Tell both drafters."""
        self._pending = None
        self._unread = max(0, self._unread - max(0, self._length - length))
        self._length = min(self._length, length)
        for drafter in self._drafters():
            drafter.rewind(length)

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        """Learn how the last proposal fared, and tell both drafters."""
        if self._pending is not None:
            self._learn(self._pending, token_ids[1:].tolist())
            self._pending = None
        self._length += len(token_ids)
        self._unread += len(token_ids)
        for drafter in self._drafters():
            drafter.observe(token_ids, hidden_states)

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """What pays: a chain, a tree or nothing."""
        self._price()
        limit = min(max_draft_tokens, _DEEPEST)
        match = self.lookup.longest_match(next_token_id) if self.lookup else Match(next_token_id=next_token_id)
        matched = min(match.length, LONGEST_MATCH)
        num_copied, copy_gain = self._best_copy(matched, limit)
        source, depth = self._choose(matched, num_copied, copy_gain, limit)
        proposal, draft_ms = NOTHING, 0.0
        if source == "model":
            proposal, draft_ms = self._draft(next_token_id, depth, limit)
        elif source == "lookup":
            assert self.lookup is not None
            proposal = self.lookup.copy(match, num_copied)
        self._pending = _Round(source=source, matched=matched, proposal=proposal, draft_ms=draft_ms)
        return proposal

    def _drafters(self) -> list[Drafter]:
        return [drafter for drafter in (self.lookup, self.model) if drafter is not None]

    def _price(self) -> None:
        """What K draft tokens add to the target's forward."""
        if (place := self._length // _CONTEXT_STEP) != self._priced_at:
            times = [self.curves.verify(1 + depth, self._length) for depth in range(_DEEPEST + 1)]
            self._plain_ms = times[0]
            self._extra_ms = [max(0.0, ms - times[0]) for ms in times]
            self._priced_at = place

    def _best_copy(self, matched: int, limit: int) -> tuple[int, float]:
        """How many tokens to copy, and what they gain."""
        if not matched:
            return 0, 0.0
        right, rate = self._record.copied_right(matched), self._rate.value
        best, best_gain, expected = 0, 0.0, 0.0
        for depth in range(1, limit + 1):
            expected += right**depth
            if (gain := expected - rate * self._extra_ms[depth]) > best_gain:
                best, best_gain = depth, gain
        return best, best_gain

    def _choose(self, matched: int, num_copied: int, copy_gain: float, limit: int) -> tuple[str, int]:
        """Who drafts, and up to which depth."""
        without_model = ("lookup" if num_copied else "plain"), num_copied
        if self.model is None or not limit:
            return without_model
        model_gain = self._record.model_gain(matched)
        if model_gain <= 0:
            self._idle_rounds = (self._idle_rounds + 1) % self._pause
            return without_model if self._idle_rounds else ("model", 1)
        by_model = model_gain > copy_gain
        if num_copied:
            self._matched_rounds += 1
            by_model ^= self._matched_rounds % _OTHER_SOURCE_EVERY == 0
        return ("model", limit) if by_model else without_model

    def _draft(self, next_token_id: int, depth: int, limit: int) -> tuple[Proposal, float]:
        """A proposal and its milliseconds by the curves."""
        assert self.model is not None
        is_ready = self.model.is_ready(next_token_id)
        least = self._thresholds(depth)
        if self._trees is None:
            drafted = proposal = self.model.draft(next_token_id, depth, ChainShape(least_probabilities=least))
        else:
            shape = TreeShape(num_rows=1 + limit, num_expansions=depth - 1, width=_WIDTH, least_probabilities=least[1:])
            drafted = self._trees.draft(next_token_id, limit, shape)
            proposal = drafted.likeliest(self._paying_rows(drafted))
        unread, self._unread = min(self._unread, _MOST_UNREAD), 0
        num_levels = int(drafted.depths().max(initial=1))
        num_expanded = len(set(drafted.parents.tolist()) - {ROOT})
        ms = self.curves.draft(num_levels, unread, num_expanded - (num_levels - 1))
        return proposal, 0.0 if is_ready else ms

    def _paying_rows(self, tree: Proposal) -> int:
        """How many of a tree's likeliest tokens gain the most."""
        worth = np.asarray(tree.confidences) * [self._record.kept(depth) for depth in tree.depths().tolist()]
        order = np.argsort(-np.asarray(tree.confidences), kind="stable")
        gains = np.cumsum([0.0, *worth[order]]) - self._rate.value * np.asarray(self._extra_ms[: 1 + len(tree)])
        return int(np.argmax(gains))

    def _thresholds(self, depth: int) -> tuple[float, ...]:
        """The drafter's own probability below which a chain does not pay, by depth."""
        found = []
        for number in range(1, depth + 1):
            paid_rows = max(1, 1 + number - self.curves.least_rows)
            ms = self._extra_ms[number] / paid_rows + (self.curves.step_ms if number > 1 else 0.0)
            found.append(min(1.0, self._rate.value * ms / self._record.kept(number)))
        return tuple(found)

    def _learn(self, last: _Round, accepted_ids: list[int]) -> None:
        drafted, accepted = len(last.proposal), len(accepted_ids)
        extra_ms = last.draft_ms + self._extra_ms[drafted]
        self._rate.add(1 + accepted, self._plain_ms + extra_ms)
        if last.source == "lookup":
            self._record.copied(last.matched, drafted, accepted)
        elif last.source == "model":
            gain = accepted - self._rate.value * extra_ms
            self._record.modelled(last.matched, last.proposal.tested(accepted_ids), accepted, gain)
            self._pause = _FIRST_PAUSE if accepted else min(2 * self._pause, _LONGEST_PAUSE)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Round:
    """A proposal that waits for its verdict."""

    source: str  # `model`, `lookup` or `plain`
    matched: int
    proposal: Proposal
    draft_ms: float
