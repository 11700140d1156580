"""A drafter drafts the next chain while the target still verifies the last one. It knows no target."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, NamedTuple

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.drafting.decaying_ratio import DecayingRatio
from dovetail_ort_runtime.drafting.drafter import ModelDrafter
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.proposal import Proposal
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.draft_graph import DraftOutput
from dovetail_ort_runtime.engine.session import SessionReport
from dovetail_ort_runtime.options import SamplingOptions

# Verdicts for which the thread drafts, and the least tokens of each chain that it drafts.
_VERDICTS: Final = 3
_TOKENS_AHEAD: Final = 6
# Candidates of a row for its bonus token: the likeliest one may be the draft token itself.
_CANDIDATES: Final = 2
# Share of rounds in which the thread must be done when the verdict comes.
_LEAST_IN_TIME: Final = 0.5
# Weight, in rounds, of the initial belief that the thread is always done in time.
_TRUSTED_ROUNDS: Final = 4.0
# A thread that is late more often is tried in one of so many rounds.
_TRIED_EVERY: Final = 32


class Verdict(NamedTuple):
    """What a verification of a chain decides.

    Attributes:
        num_accepted: number of draft tokens that are accepted.
        bonus_token: the target's own token after them.
    """

    num_accepted: int
    bonus_token: int


class DraftingAhead(ModelDrafter):
    """A `FeatureDrafter` whose chains may be ready before they are asked for.

    When a chain has been handed out, a thread drafts on for the likeliest verdicts on it. `observe` ends that work,
    within one forward of the draft graph, and keeps the chains for the verdict that came true. The next proposal is
    then there at once. It was drafted from the drafter's own features where it would have had the target's. Its tokens
    are verified like all others, so answers stay the same.

    It pays where the drafter does not take the target's cores, and where the target takes so long that the thread is
    done when the verdict comes. Where the thread is mostly late, the next chain waits for it, so nothing is drafted
    ahead in most rounds.

    Args:
        drafter: drafts the chains; it runs in one thread at a time.

    Attributes:
        num_drafts: number of proposals so far.
        num_ready: number of proposals that were ready when they were asked for.
    """

    def __init__(self, drafter: FeatureDrafter) -> None:
        super().__init__(drafter.shape)
        self.reads = drafter.reads
        self.drafter = drafter
        self.num_drafts = 0
        self.num_ready = 0
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="drafting-ahead")
        self._stop = threading.Event()
        self._in_time = DecayingRatio(1.0, _TRUSTED_ROUNDS)
        self._work: Future[dict[Verdict, Proposal]] | None = None
        self._handed_out: list[int] = []
        self._ready: dict[int, Proposal] = {}

    def begin(self, sampling: SamplingOptions) -> None:
        """Tell the drafter that a new answer begins."""
        self.drafter.begin(sampling)

    def reports(self) -> tuple[SessionReport, ...]:
        """The drafter's session."""
        return self.drafter.reports()

    def rewind(self, length: int) -> None:
        """Drop the chains that are ready, and rewind the drafter."""
        self._finish()
        self._ready = {}
        self.drafter.rewind(length)

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        """Keep what was drafted for this verdict, and tell the drafter.

        Raises:
            Exception: the drafting thread ended with it.
        """
        if self._work is not None:
            self._in_time.add(float(self._work.done()))
        drafted = self._finish()
        accepted = token_ids[1:].tolist()
        self._ready = {}
        if accepted == self._handed_out[: len(accepted)]:
            for verdict, chain in drafted.items():
                if verdict.num_accepted == len(accepted):
                    self._ready[verdict.bonus_token] = chain
        self.drafter.observe(token_ids, hidden_states)

    def is_ready(self, next_token_id: int) -> bool:
        """Whether a chain after this token is there already."""
        return next_token_id in self._ready

    def draft(self, next_token_id: int, max_draft_tokens: int, shape: ChainShape | TreeShape) -> Proposal:
        """The chain that is ready, cut to the shape, or a new one; the next ones are begun where that pays."""
        assert isinstance(shape, ChainShape), "only chains are drafted ahead"
        self._finish()
        ready = self._ready.get(next_token_id)
        self._ready = {}
        self.num_drafts += 1
        if ready is None:
            proposal = self.drafter.draft(next_token_id, max_draft_tokens, shape)
        else:
            self.num_ready += 1
            proposal = _cut(ready, shape.least_probabilities[:max_draft_tokens])
        self._handed_out = proposal.token_ids.tolist()
        if self._in_time.value >= _LEAST_IN_TIME or self.num_drafts % _TRIED_EVERY == 0:
            self._stop.clear()
            self._work = self._executor.submit(
                self.draft_after_verdicts,
                next_token_id,
                self._handed_out,
                num_verdicts=_VERDICTS,
                num_tokens=max(_TOKENS_AHEAD, shape.num_tokens),
                is_stopped=self._stop.is_set,
            )
        return proposal

    def wait(self) -> None:
        """Wait until the thread has drafted for all of its verdicts, as it would while a slow target verifies."""
        if self._work is not None:
            wait([self._work])

    def _finish(self) -> dict[Verdict, Proposal]:
        """End the thread's work and take the chains that it has drafted."""
        self._stop.set()
        work = self._work
        self._work = None
        return {} if work is None else work.result()

    def draft_after_verdicts(
        self,
        next_token_id: int,
        drafted: Sequence[int],
        *,
        num_verdicts: int,
        num_tokens: int,
        is_stopped: Callable[[], bool],
    ) -> dict[Verdict, Proposal]:
        """Chains to follow the likeliest verdicts on a chain that is not verified yet.

        Args:
            next_token_id: root of the chain.
            drafted: draft tokens of the chain.
            num_verdicts: number of verdicts to draft for, the likeliest ones.
            num_tokens: number of tokens of each new chain.
            is_stopped: asked before each forward; once it says yes, the tokens drafted so far are the result.
        """
        output = self.drafter.catch_up(next_token_id, _CANDIDATES)
        cache = self.drafter.model.cache
        stable = cache.length
        try:
            verdicts = self._likeliest_verdicts(output, drafted, num_verdicts, is_stopped)
            # A chain overwrites the rows of the draft tokens that its verdict rejects, so the longest path comes first.
            verdicts.sort(key=lambda likely: -likely.verdict.num_accepted)
            chains: dict[Verdict, Proposal] = {}
            for likely in verdicts:
                if is_stopped():
                    break
                cache.rewind(stable + likely.verdict.num_accepted)
                output = self.drafter.read_on(likely.feature, likely.verdict.bonus_token)
                chains[likely.verdict] = self._chain(output, num_tokens, is_stopped)
            return chains
        finally:
            cache.rewind(stable)

    def _likeliest_verdicts(
        self, output: DraftOutput, drafted: Sequence[int], num_verdicts: int, is_stopped: Callable[[], bool]
    ) -> list[_LikelyVerdict]:
        """The likeliest verdicts, the likeliest first; afterwards the rows of the draft tokens are in the cache.

        A verdict is as likely as its accepted tokens followed by its bonus token, by the drafter's own probabilities.

        Args:
            output: output of the row that reads the chain's root.
            drafted: draft tokens of the chain.
            num_verdicts: number of verdicts.
            is_stopped: asked before each forward.
        """
        found: list[_LikelyVerdict] = []
        probability = 1.0
        for num_accepted in range(len(drafted) + 1):
            feature = output.hidden_states.copy()
            candidates = dict(zip(output.candidate_ids[0].tolist(), np.exp(output.log_probabilities[0]), strict=True))
            draft_token = drafted[num_accepted] if num_accepted < len(drafted) else None
            for token_id, chance in candidates.items():
                if token_id != draft_token:
                    verdict = Verdict(num_accepted, token_id)
                    found.append(_LikelyVerdict(probability * float(chance), verdict, feature))
            if draft_token is None or is_stopped():
                break
            probability *= float(candidates.get(draft_token, 0.0))
            output = self.drafter.read_on(feature, draft_token, _CANDIDATES)
        found.sort(key=lambda likely: -likely.probability)
        return found[:num_verdicts]

    def _chain(self, output: DraftOutput, num_tokens: int, is_stopped: Callable[[], bool]) -> Proposal:
        """Tokens after a row, at least one."""
        tokens = self.drafter.likeliest_tokens(output)
        token_ids: list[int] = []
        confidences: list[float] = []
        probability = 1.0
        while len(token_ids) < num_tokens:
            if token_ids and is_stopped():
                break
            token_id, chance = next(tokens)
            probability *= chance
            token_ids.append(token_id)
            confidences.append(probability)
        return Proposal.chain(token_ids, confidences=confidences)


class _LikelyVerdict(NamedTuple):
    """A verdict that may come.

    Attributes:
        probability: the drafter's own probability of the verdict.
        verdict: the verdict.
        feature: (1, F) float32, predicted after the last accepted token; the bonus token's row reads it.
    """

    probability: float
    verdict: Verdict
    feature: FloatArray


def _cut(chain: Proposal, least_probabilities: tuple[float, ...]) -> Proposal:
    """The beginning of a chain, up to the first token whose confidence is below its least probability."""
    length = min(len(chain), len(least_probabilities))
    for index, (confidence, least) in enumerate(zip(chain.confidences, least_probabilities, strict=False)):
        if confidence < least:
            length = index
            break
    return Proposal.chain(chain.token_ids[:length], confidences=chain.confidences[:length])
