"""A drafter drafts the next chain while the target still verifies the last one."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.drafting.acceptance_rates import DecayingRatio
from dovetail_ort_runtime.drafting.drafter import ModelDrafter
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter, Verdict
from dovetail_ort_runtime.drafting.proposal import Proposal
from dovetail_ort_runtime.drafting.shapes import ChainShape
from dovetail_ort_runtime.engine.session import SessionReport
from dovetail_ort_runtime.options import SamplingOptions

_VERDICTS: Final = 3
_TOKENS_AHEAD: Final = 6
# How often the thread must be done when the verdict comes, and the rounds that it starts from, as if they had been so.
_LEAST_IN_TIME: Final = 0.5
_TRUSTED_ROUNDS: Final = 4.0
# Where it is late more often, it is tried in one round of so many.
_TRIED_EVERY: Final = 32


class DraftingAhead(ModelDrafter):
    """As `FeatureDrafter`, with chains that are ready before they are asked for.

    When a chain has been handed out, a thread drafts on for the likeliest verdicts on it. `observe` ends that work,
    within one forward of the drafter, and keeps what the verdict made come true. The next proposal is then there at
    once, drafted from the drafter's own features where it would have had the target's: tokens are verified as ever, so
    answers stay the same.

    It pays where the drafter does not take the target's cores, and where the target takes so long that the thread is
    done when the verdict comes. Where it mostly is not, the next chain waits for it, so it is left out.

    Args:
        drafter: of chains; runs in one thread at a time.

    Attributes:
        num_drafts: proposals so far.
        num_ready: those that were there already.
    """

    def __init__(self, drafter: FeatureDrafter) -> None:
        self.drafter = drafter
        self.num_drafts = self.num_ready = 0
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="drafting-ahead")
        self._stop = threading.Event()
        self._in_time = DecayingRatio(1.0, _TRUSTED_ROUNDS)
        self._work: Future[dict[Verdict, Proposal]] | None = None
        self._handed_out: list[int] = []
        self._ready: dict[int, Proposal] = {}

    def begin(self, sampling: SamplingOptions) -> None:
        """Tell the drafter."""
        self.drafter.begin(sampling)

    def reports(self) -> tuple[SessionReport, ...]:
        """The drafter's session."""
        return self.drafter.reports()

    def rewind(self, length: int) -> None:
        """Drop what is ready, and tell the drafter."""
        self._finish()
        self._ready = {}
        self.drafter.rewind(length)

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        """Keep what was drafted for this verdict, and tell the drafter.

        Raises:
            Exception: what ended the drafting thread.
        """
        if self._work is not None:
            self._in_time.add(float(self._work.done()))
        drafted = self._finish()
        accepted = token_ids[1:].tolist()
        if accepted != self._handed_out[: len(accepted)]:
            drafted = {}
        self._ready = {bonus: chain for (number, bonus), chain in drafted.items() if number == len(accepted)}
        self.drafter.observe(token_ids, hidden_states)

    def is_ready(self, next_token_id: int) -> bool:
        """Whether a chain after this token is there already."""
        return next_token_id in self._ready

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """A chain of the drafter's own shape."""
        shape = self.drafter.shape
        assert isinstance(shape, ChainShape), "only chains are drafted ahead"
        return self.draft(next_token_id, max_draft_tokens, shape)

    def draft(self, next_token_id: int, max_draft_tokens: int, shape: ChainShape) -> Proposal:
        """The chain that is ready, cut to the shape, or a new one; the next ones are begun where that pays."""
        self._finish()
        ready = self._ready.pop(next_token_id, None)
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
                self.drafter.draft_after_verdicts,
                next_token_id,
                self._handed_out,
                num_verdicts=_VERDICTS,
                num_tokens=max(_TOKENS_AHEAD, shape.num_tokens),
                is_stopped=self._stop.is_set,
            )
        return proposal

    def _finish(self) -> dict[Verdict, Proposal]:
        """End the thread's work and take what it has."""
        self._stop.set()
        work, self._work = self._work, None
        return {} if work is None else work.result()


def _cut(chain: Proposal, least_probabilities: tuple[float, ...]) -> Proposal:
    pairs = zip(chain.confidences, least_probabilities, strict=False)
    length = next((n for n, (confidence, least) in enumerate(pairs) if confidence < least), None)
    length = min(len(chain), len(least_probabilities)) if length is None else length
    return Proposal.chain(chain.token_ids[:length], confidences=chain.confidences[:length])
