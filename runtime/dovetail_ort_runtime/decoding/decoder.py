"""One sequence of tokens: prompt in, rounds of draft, verify and accept out. It knows no text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.decoding.acceptance import Acceptance, accept
from dovetail_ort_runtime.decoding.verification import verification_rows
from dovetail_ort_runtime.drafting.drafter import Drafter
from dovetail_ort_runtime.drafting.proposal import NOTHING, Proposal
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target, TargetOutput
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.options import Constraint, SamplingOptions
from dovetail_ort_runtime.results import TokenLogprobs
from dovetail_ort_runtime.sampler import Sampler, SeenArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Outcome of one round.

    Attributes:
        token_ids: accepted draft tokens, then the bonus token.
        logprobs: of each of them, None where they were not asked for.
        num_drafted: draft tokens that were verified.
        draft_seconds: of the drafter.
        verify_seconds: of the target's forward.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]
    num_drafted: int
    draft_seconds: float
    verify_seconds: float

    @property
    def num_accepted(self) -> int:
        """Draft tokens among the new ones."""
        return len(self.token_ids) - 1


class Decoder:
    """Continues one sequence, and starts the next where it shares a beginning with the last.

    `begin` reads a prompt and decides its first new token, each `step` decides one or more. An exception, Ctrl-C
    included, leaves the decoder ready for the next `begin`.

    Attributes:
        root: the newest token, which the target reads in the next step.
        root_logprobs: its own, None where they were not asked for.
    """

    def __init__(self, target: Target, drafter: Drafter) -> None:
        self.target = target
        self.drafter = drafter
        self._read: list[int] = []  # tokens that the target has read and that stay
        self.root = 0
        self.root_logprobs: TokenLogprobs | None = None
        self._num_alternatives: int | None = None
        self._sampler = Sampler(SamplingOptions())
        self._seen: SeenArray | None = None

    def begin(
        self,
        prompt: Sequence[int],
        sampling: SamplingOptions,
        *,
        constraint: Constraint | None = None,
        logprobs: int | None = None,
    ) -> int:
        """Read a prompt and choose the first new token.

        Args:
            prompt: one token or more, fewer than the cache has slots.
            sampling: how this and all further tokens are chosen.
            constraint: is started anew.
            logprobs: alternatives of each token to measure, or None to measure nothing.

        Returns:
            How many tokens of the prompt were not read again.
        """
        num_cached = self._reusable(prompt)
        self.rewind(num_cached)
        self.drafter.begin(sampling)
        tokens = np.asarray(prompt, dtype=np.int64)
        rows = None
        for start in range(num_cached, len(tokens), self.target.max_rows):
            chunk = tokens[start : start + self.target.max_rows]
            rows = self.target.forward(ForwardRows.chain(chunk, start), num_scored=1)
            self._keep(chunk, rows, tuple(range(len(chunk))))
        assert rows is not None
        self._sampler = Sampler(sampling, None if constraint is None else constraint.start())
        self._num_alternatives = logprobs
        self._seen = None
        if sampling.repetition_penalty != 1:
            self._seen = np.zeros(self.target.vocabulary_size, dtype=np.bool_)
            self._seen[tokens] = True
        accepted = accept(NOTHING, rows.logits, self._sampler, self._seen)
        (self.root,), (self.root_logprobs,) = accepted.token_ids, self._measure(accepted, rows.logits)
        return num_cached

    def step(self, max_draft_tokens: int) -> Round:
        """Draft, verify, accept.

        Args:
            max_draft_tokens: 0 for plain decoding; with the root, at most the target's `max_rows` and the
                cache's free slots.
        """
        started = time.perf_counter()
        proposal = self._propose(max_draft_tokens)
        drafted = time.perf_counter()
        verification = verification_rows(self.root, proposal, self.target.cache.length)
        rows = self.target.forward(verification)
        verified = time.perf_counter()
        accepted = accept(proposal, rows.logits, self._sampler, self._seen)
        logprobs = self._measure(accepted, rows.logits)
        # The bonus token is next round's root.
        self._keep(np.array([self.root, *accepted.token_ids[:-1]], dtype=np.int64), rows, accepted.rows)
        self.root, self.root_logprobs = accepted.token_ids[-1], logprobs[-1]
        return Round(
            token_ids=accepted.token_ids,
            logprobs=logprobs,
            num_drafted=len(proposal),
            draft_seconds=drafted - started,
            verify_seconds=verified - drafted,
        )

    def rewind(self, length: int) -> None:
        """Forget every token that was read from position `length` on."""
        kept, self._read = self._read[:length], []
        self.target.cache.rewind(length)
        self.drafter.rewind(length)
        self._read = kept  # an interruption before leaves nothing to build on

    def _propose(self, max_draft_tokens: int) -> Proposal:
        if not max_draft_tokens:
            return NOTHING
        proposal = self.drafter.propose(self.root, max_draft_tokens)
        if len(proposal) > max_draft_tokens:
            raise InputError(f"the drafter must propose {max_draft_tokens} tokens at most, got {len(proposal)}")
        if any(not 0 <= token_id < self.target.vocabulary_size for token_id in proposal.token_ids.tolist()):
            raise InputError(
                f"draft tokens must be between 0 and {self.target.vocabulary_size - 1}, got "
                f"{proposal.token_ids.tolist()}; drafter and target must share one vocabulary"
            )
        return proposal if self.target.keeps_branches else proposal.first_path()

    def _measure(self, accepted: Acceptance, logits: FloatArray) -> tuple[TokenLogprobs | None, ...]:
        """Of each new token, from the row that chose it."""
        if self._num_alternatives is None:
            return (None,) * len(accepted.token_ids)
        choices = zip(accepted.rows, accepted.token_ids, strict=True)
        return tuple(TokenLogprobs.of(logits[row], token_id, self._num_alternatives) for row, token_id in choices)

    def _keep(self, tokens: TokenArray, rows: TargetOutput, kept: tuple[int, ...]) -> None:
        # In this order an interruption leaves `_read` the shortest, and the next `begin` rewinds the others to it.
        self.target.cache.keep(kept)
        self.drafter.observe(tokens, _rows(rows.hidden_states, kept))
        self._read.extend(tokens.tolist())

    def _reusable(self, prompt: Sequence[int]) -> int:
        """Tokens at the start of `prompt` that need no reading; the last one is read for its logits."""
        limit = min(len(self._read), len(prompt) - 1)
        return next((index for index in range(limit) if self._read[index] != prompt[index]), limit)


def _rows(array: FloatArray, rows: tuple[int, ...]) -> FloatArray:
    """Some rows of an array, a view where they are the first ones."""
    return array[: len(rows)] if rows[-1] == len(rows) - 1 else array[list(rows)]
