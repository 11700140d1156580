"""How much is drafted in each round: what pays by measured times and observed acceptance. It knows no graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.drafting.decaying_ratio import DecayingRatio
from dovetail_ort_runtime.drafting.drafter import Drafter, ModelDrafter
from dovetail_ort_runtime.drafting.prompt_lookup import Match, PromptLookup
from dovetail_ort_runtime.drafting.proposal import NOTHING, ROOT, Proposal
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.session import SessionReport
from dovetail_ort_runtime.options import SamplingOptions
from dovetail_ort_runtime.planning.acceptance_rates import LONGEST_MATCH, AcceptanceRates
from dovetail_ort_runtime.planning.source_choice import Source, SourceChoice
from dovetail_ort_runtime.planning.time_curves import TimeCurves

# Weight, in rounds without a draft, of the rate before anything is observed.
_RATE_WEIGHT: Final = 8.0
# Rounds after which an observation of the rate counts half.
_RATE_HALF_LIFE: Final = 96
# Draft tokens of a round at most.
_DEEPEST: Final = 16
# Candidates of a node of a tree.
_WIDTH: Final = 4
# Unread tokens that the price of a draft counts at most: reading a prompt is not the price of one round.
_MOST_UNREAD: Final = 8
# Kept tokens after which the curves are read anew.
_CONTEXT_STEP: Final = 64


class Planner(Drafter):
    """Drafts with prompt lookup or a model, as many tokens as pay: chains, or trees where side branches may be kept.

    The aim is the most tokens per millisecond over all rounds. At the rate r that is being reached, a draft token pays
    if it is accepted with a probability above r times the milliseconds that it adds. This is Dinkelbach's condition for
    the best ratio (On nonlinear fractional programming, Management Science 13, 1967).

    Milliseconds come from `TimeCurves`. Probabilities come from the drafter, corrected by how often its earlier
    promises were kept. The probability that a copy is right is the share of right copies after matches of that length.
    `SourceChoice` compares what the model's past drafts gained after such matches with what a copy promises.

    Args:
        curves: times of this machine.
        lookup: the drafter that copies from the text; None if nothing is copied.
        model: the drafter that runs a model; None if there is none.
        keeps_branches: whether the target keeps side branches of a tree. Without that no tree is drafted.
    """

    def __init__(
        self,
        curves: TimeCurves,
        *,
        lookup: PromptLookup | None = None,
        model: ModelDrafter | None = None,
        keeps_branches: bool = False,
    ) -> None:
        if model is not None:
            self.reads = model.reads
        self.curves = curves
        self.lookup = lookup
        self.model = model
        self._drafts_trees = keeps_branches and model is not None and model.drafts_trees
        self._acceptance = AcceptanceRates()
        self._sources = SourceChoice()
        self._baseline_ms = curves.verify(1, 0)
        self._extra_ms: list[float] = []
        self._priced_at: int | None = None
        self._rate = DecayingRatio(1 / self._baseline_ms, _RATE_WEIGHT * self._baseline_ms, _RATE_HALF_LIFE)
        self._length = 0
        self._unread = 0
        self._pending: _Pending | None = None

    def begin(self, sampling: SamplingOptions) -> None:
        """Tell both drafters that a new answer begins; what was learned stays."""
        for drafter in self._drafters():
            drafter.begin(sampling)

    def reports(self) -> tuple[SessionReport, ...]:
        """The model's session."""
        return () if self.model is None else self.model.reports()

    def rewind(self, length: int) -> None:
        """Rewind both drafters."""
        self._pending = None
        num_forgotten = max(0, self._length - length)
        self._unread = max(0, self._unread - num_forgotten)
        self._length = min(self._length, length)
        for drafter in self._drafters():
            drafter.rewind(length)

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        """Learn how the last proposal fared, and show the tokens to both drafters."""
        if self._pending is not None:
            self._learn(self._pending, token_ids[1:].tolist())
            self._pending = None
        self._length += len(token_ids)
        self._unread += len(token_ids)
        for drafter in self._drafters():
            drafter.observe(token_ids, hidden_states)

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """The draft tokens that pay in this round: a chain, a tree or nothing."""
        self._price()
        limit = min(max_draft_tokens, _DEEPEST)
        match = self._match(next_token_id)
        matched = min(match.length, LONGEST_MATCH)
        num_copied, copy_gain = self._best_copy(matched, limit)
        model_gain = self._model_gain(matched, limit)
        source = self._sources.choose(model_gain, copy_gain)
        proposal = NOTHING
        draft_ms = 0.0
        if source == "model":
            assert model_gain is not None
            # A model that loses drafts one token, which shows whether it still does.
            depth = limit if model_gain > 0 else 1
            proposal, draft_ms = self._draft(next_token_id, depth, limit)
        elif source == "lookup":
            assert self.lookup is not None
            proposal = self.lookup.copy(match, num_copied)
        self._pending = _Pending(source=source, matched=matched, proposal=proposal, draft_ms=draft_ms)
        return proposal

    def _drafters(self) -> list[Drafter]:
        return [drafter for drafter in (self.lookup, self.model) if drafter is not None]

    def _price(self) -> None:
        """Read from the curves what K draft tokens add to the target's forward, for K of 0 to `_DEEPEST`."""
        place = self._length // _CONTEXT_STEP
        if place == self._priced_at:
            return
        times = [self.curves.verify(1 + depth, self._length) for depth in range(_DEEPEST + 1)]
        self._baseline_ms = times[0]
        self._extra_ms = [max(0.0, ms - self._baseline_ms) for ms in times]
        self._priced_at = place

    def _match(self, next_token_id: int) -> Match:
        if self.lookup is None:
            return Match(next_token_id=next_token_id)
        return self.lookup.longest_match(next_token_id)

    def _best_copy(self, matched: int, limit: int) -> tuple[int, float]:
        """How many tokens to copy, and how many tokens they gain; 0 and 0 if no copy pays."""
        best = 0
        best_gain = 0.0
        if not matched:
            return best, best_gain
        right = self._acceptance.copied_right(matched)
        rate = self._rate.value
        expected = 0.0
        for depth in range(1, limit + 1):
            # A token counts if it and all copied tokens before it are right.
            expected += right**depth
            gain = expected - rate * self._extra_ms[depth]
            if gain > best_gain:
                best = depth
                best_gain = gain
        return best, best_gain

    def _model_gain(self, matched: int, limit: int) -> float | None:
        if self.model is None or not limit:
            return None
        return self._acceptance.model_gain(matched)

    def _draft(self, next_token_id: int, depth: int, limit: int) -> tuple[Proposal, float]:
        """A proposal of the model, and the milliseconds of drafting by the curves.

        Args:
            next_token_id: root of the proposal.
            depth: tokens of a chain, or depth of a tree, at most.
            limit: draft tokens at most.
        """
        assert self.model is not None
        is_ready = self.model.is_ready(next_token_id)
        least = self._thresholds(depth)
        if self._drafts_trees:
            shape = TreeShape(num_rows=1 + limit, num_expansions=depth - 1, width=_WIDTH, least_probabilities=least[1:])
            drafted = self.model.draft(next_token_id, limit, shape)
            proposal = drafted.likeliest(self._num_paying(drafted))
        else:
            drafted = self.model.draft(next_token_id, depth, ChainShape(least_probabilities=least))
            proposal = drafted
        unread = min(self._unread, _MOST_UNREAD)
        self._unread = 0
        return proposal, 0.0 if is_ready else self._draft_ms(drafted, unread)

    def _draft_ms(self, drafted: Proposal, unread: int) -> float:
        """Milliseconds by the curves of what was drafted after some unread tokens."""
        depth = int(drafted.depths().max(initial=1))
        num_expanded = len(set(drafted.parents.tolist()) - {ROOT})
        num_branches = num_expanded - (depth - 1)
        return self.curves.draft(depth, unread, num_branches)

    def _num_paying(self, tree: Proposal) -> int:
        """How many of a tree's K likeliest draft tokens to verify, so that their gain is the largest.

        n tokens gain the sum of their chances, less the rate times the milliseconds that n more rows take. In the code,
        `order` and `chance` are (K,), and `gain` is (K + 1,), for n of 0 to K.
        """
        confidences = np.asarray(tree.confidences)
        kept = np.array([self._acceptance.kept(depth) for depth in tree.depths().tolist()])
        order = np.argsort(-confidences, kind="stable")
        chance = (confidences * kept)[order]
        cost = self._rate.value * np.array(self._extra_ms[: 1 + len(tree)])
        gain = np.cumsum([0.0, *chance]) - cost
        return int(np.argmax(gain))

    def _thresholds(self, depth: int) -> tuple[float, ...]:
        """For each depth from 1 on, the drafter's own probability below which a chain does not pay."""
        found = []
        for number in range(1, depth + 1):
            # Rows that pad the smallest forward cost nothing.
            paid_rows = max(1, 1 + number - self.curves.least_rows)
            ms = self._extra_ms[number] / paid_rows
            if number > 1:
                ms += self.curves.step_ms
            least = self._rate.value * ms / self._acceptance.kept(number)
            found.append(min(1.0, least))
        return tuple(found)

    def _learn(self, last: _Pending, accepted_ids: list[int]) -> None:
        drafted = len(last.proposal)
        accepted = len(accepted_ids)
        extra_ms = last.draft_ms + self._extra_ms[drafted]
        self._rate.add(1 + accepted, self._baseline_ms + extra_ms)
        if last.source == "lookup":
            self._acceptance.copied(last.matched, drafted, accepted)
        elif last.source == "model":
            gain = accepted - self._rate.value * extra_ms
            self._acceptance.modelled(last.matched, last.proposal.tested(accepted_ids), accepted, gain)
            self._sources.observe_model(accepted)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pending:
    """A proposal that waits for its verdict.

    Attributes:
        source: who drafted it.
        matched: length of the match when it was drafted, `LONGEST_MATCH` at most.
        proposal: draft tokens that are verified.
        draft_ms: milliseconds of drafting by the curves.
    """

    source: Source
    matched: int
    proposal: Proposal
    draft_ms: float
