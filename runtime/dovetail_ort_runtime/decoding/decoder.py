"""One sequence of tokens: prompt in, rounds of draft, verify and accept out. It knows no text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_names import HIDDEN_STATES
from dovetail_ort_runtime.decoding.acceptance import Acceptance, accept
from dovetail_ort_runtime.decoding.verification import verification_rows
from dovetail_ort_runtime.drafting.drafter import Drafter
from dovetail_ort_runtime.drafting.proposal import NOTHING, Proposal
from dovetail_ort_runtime.engine.kv_cache import num_reusable
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
        logprobs: log-probabilities of each new token, None where they were not asked for.
        num_drafted: number of draft tokens that were verified.
        draft_seconds: seconds that the drafter took.
        verify_seconds: seconds that the target's forward took.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]
    num_drafted: int
    draft_seconds: float
    verify_seconds: float

    @property
    def num_accepted(self) -> int:
        """Number of draft tokens among the new ones."""
        return len(self.token_ids) - 1


class Decoder:
    """Decodes one sequence after another; tokens that a new one shares with the last are not read again.

    `begin` reads a prompt and decides its first new token. Each `next_round` decides one token or more. An exception,
    Ctrl-C included, leaves the decoder ready for the next `begin`.

    Args:
        target: the model that decides every token.
        drafter: proposes tokens; it observes every token that the target reads and keeps.

    Attributes:
        root: the newest token, which the target reads in the next round.
        root_logprobs: log-probabilities of the root, None where they were not asked for.
    """

    def __init__(self, target: Target, drafter: Drafter) -> None:
        self.target = target
        self.drafter = drafter
        self.root = 0
        self.root_logprobs: TokenLogprobs | None = None
        # Tokens that the target has read and that stay.
        self._read: list[int] = []
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
            constraint: rule for the answer, which begins anew; None without one.
            logprobs: number of alternatives to measure beside each token; None to measure nothing.

        Returns:
            Number of tokens of the prompt that were not read again.
        """
        num_cached = num_reusable(self._read, prompt)
        self.rewind(num_cached)
        self.drafter.begin(sampling)
        tokens = np.asarray(prompt, dtype=np.int64)
        output = self._read_prompt(tokens, num_cached)
        self._sampler = Sampler(sampling, None if constraint is None else constraint.start())
        self._num_alternatives = logprobs
        self._seen = None
        if sampling.repetition_penalty != 1:
            self._seen = np.zeros(self.target.vocabulary_size, dtype=np.bool_)
            self._seen[tokens] = True
        accepted = accept(NOTHING, output.logits, self._sampler, self._seen)
        self.root = accepted.token_ids[0]
        self.root_logprobs = self._measure(accepted, output.logits)[0]
        return num_cached

    def next_round(self, max_draft_tokens: int) -> Round:
        """Draft, verify, accept.

        Args:
            max_draft_tokens: 0 or more, 0 to decode without speculation. Root and draft tokens must fit into the
                target's `max_rows` and into the free slots of its cache.

        Raises:
            InputError: the drafter proposes too many tokens, or tokens outside the target's vocabulary.
        """
        started = time.perf_counter()
        proposal = self._propose(max_draft_tokens)
        drafted = time.perf_counter()
        rows = verification_rows(self.root, proposal, self.target.cache.length)
        output = self.target.forward(rows)
        verified = time.perf_counter()
        accepted = accept(proposal, output.logits, self._sampler, self._seen)
        logprobs = self._measure(accepted, output.logits)
        kept = np.array([self.root, *accepted.token_ids[:-1]], dtype=np.int64)
        self._keep(kept, output, accepted.rows)
        # The target has not read the bonus token yet.
        self.root = accepted.token_ids[-1]
        self.root_logprobs = logprobs[-1]
        return Round(
            token_ids=accepted.token_ids,
            logprobs=logprobs,
            num_drafted=len(proposal),
            draft_seconds=drafted - started,
            verify_seconds=verified - drafted,
        )

    def rewind(self, length: int) -> None:
        """Forget every token that was read from position `length` on."""
        kept = self._read[:length]
        # After an interruption between the two calls, no token counts as read.
        self._read = []
        self.target.cache.rewind(length)
        self.drafter.rewind(length)
        self._read = kept

    def _read_prompt(self, tokens: TokenArray, num_cached: int) -> TargetOutput:
        """Read a prompt from position `num_cached` on; output of its last chunk, with the logits of its last token."""
        output = None
        for chunk, output in self.target.chunks(tokens[num_cached:], num_scored=1):
            self._observe(chunk, self._features(output))
        assert output is not None, "the last token of a prompt is always read"
        return output

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
        """Log-probabilities of each new token, from the row that chose it."""
        if self._num_alternatives is None:
            return (None,) * len(accepted.token_ids)
        found = []
        for row, token_id in zip(accepted.rows, accepted.token_ids, strict=True):
            found.append(TokenLogprobs.of(logits[row], token_id, self._num_alternatives))
        return tuple(found)

    def _keep(self, tokens: TokenArray, output: TargetOutput, rows: tuple[int, ...]) -> None:
        """Keep tokens that the target has read.

        Args:
            tokens: (n,) int64.
            output: output of the forward that read them.
            rows: the n rows of that forward.
        """
        self.target.cache.keep(rows)
        self._observe(tokens, _rows_of(self._features(output), rows))

    def _features(self, output: TargetOutput) -> FloatArray:
        """What the drafter reads of a forward."""
        return output.hidden_states if self.drafter.reads == HIDDEN_STATES else output.features

    def _observe(self, tokens: TokenArray, features: FloatArray) -> None:
        """Show the drafter tokens that the cache keeps, and note them."""
        # In this order an interruption leaves `_read` the shortest of all, and the next `begin` rewinds the rest to it.
        self.drafter.observe(tokens, features)
        self._read.extend(tokens.tolist())


def _rows_of(array: FloatArray, rows: tuple[int, ...]) -> FloatArray:
    """Some rows of an array, in ascending order; a view if they are its first ones."""
    are_the_first = rows[-1] == len(rows) - 1
    return array[: len(rows)] if are_the_first else array[list(rows)]
