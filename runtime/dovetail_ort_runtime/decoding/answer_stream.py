"""The answer as it grows: its text, its end and its statistics. It knows no model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from dovetail_ort_runtime.decoding.decoder import Round
from dovetail_ort_runtime.results import FinishReason, Generation, Piece, Statistics, TokenLogprobs
from dovetail_ort_runtime.text.answer_text import AnswerText
from dovetail_ort_runtime.text.tokenizer import Tokenizer


class AnswerStream:
    """Takes new tokens and gives pieces of text until the answer ends.

    It is made when the first token is decided: decoding is timed from then on.

    Args:
        tokenizer: tokenizer of the target.
        eos_token_ids: tokens that end the answer.
        stop: strings that end the answer. They are searched for in a text in which special tokens are spelt out.
        skip_special_tokens: whether the answer's text leaves out special tokens and the end-of-text token.
        prompt_tokens: number of tokens of the prompt.
        cached_tokens: number of the prompt's tokens that were not read again.
        started: `time.perf_counter()` at the caller's call, in seconds.
        read_started: `time.perf_counter()` when the target began to read the prompt, in seconds.

    Attributes:
        finished: whether the answer has ended.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        eos_token_ids: Sequence[int],
        stop: Sequence[str],
        skip_special_tokens: bool,
        prompt_tokens: int,
        cached_tokens: int,
        started: float,
        read_started: float,
    ) -> None:
        self._eos_token_ids = frozenset(eos_token_ids)
        self._text = AnswerText(
            tokenizer, eos_token_ids=self._eos_token_ids, stop=stop, skip_special_tokens=skip_special_tokens
        )
        # Accepted draft tokens of each round.
        self._accepted: list[int] = []
        self._drafted_tokens = 0
        self._draft_seconds = 0.0
        self._verify_seconds = 0.0
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = cached_tokens
        self._started = started
        self._read_started = read_started
        self._first_token = time.perf_counter()
        # Seconds that the caller spent on pieces.
        self._waited = 0.0
        self.finished = False

    @property
    def num_tokens(self) -> int:
        """New tokens so far."""
        return len(self._token_ids)

    def count(self, result: Round) -> None:
        """Add a round to the statistics."""
        self._accepted.append(result.num_accepted)
        self._drafted_tokens += result.num_drafted
        self._draft_seconds += result.draft_seconds
        self._verify_seconds += result.verify_seconds

    def pieces(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None], max_tokens: int
    ) -> Iterator[Piece]:
        """Pieces of a round's new tokens, up to the token that ends the answer.

        Args:
            token_ids: accepted draft tokens, then the bonus token.
            logprobs: log-probabilities of each token, None where they were not asked for.
            max_tokens: number of tokens at which the answer ends.
        """
        num_accepted = len(token_ids) - 1
        for place, (token_id, measured) in enumerate(zip(token_ids, logprobs, strict=True)):
            piece = self._piece(token_id, measured, drafted=place < num_accepted, max_tokens=max_tokens)
            handed_over = time.perf_counter()
            yield piece
            # The time that the caller spends on a piece does not count.
            self._waited += time.perf_counter() - handed_over
            if self.finished:
                return

    def _piece(self, token_id: int, logprobs: TokenLogprobs | None, *, drafted: bool, max_tokens: int) -> Piece:
        self._token_ids.append(token_id)
        text = self._text.push(token_id)
        reason: FinishReason | None = None
        if token_id in self._eos_token_ids or self._text.stopped:
            reason = "stop"
        elif self.num_tokens == max_tokens:
            reason = "length"
        if reason is not None:
            text += self._text.finish()
            # The rest of the text may complete a stop string.
            if self._text.stopped:
                reason = "stop"
        self._texts.append(text)
        self.finished = reason is not None
        generation = None if reason is None else self._generation(reason)
        return Piece(text=text, token_id=token_id, drafted=drafted, logprobs=logprobs, generation=generation)

    def _generation(self, reason: FinishReason) -> Generation:
        decode_seconds = time.perf_counter() - self._first_token - self._waited
        statistics = Statistics(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            new_tokens=self.num_tokens,
            rounds=len(self._accepted),
            drafted_tokens=self._drafted_tokens,
            accepted_tokens=sum(self._accepted),
            accepted_histogram=tuple(np.bincount(self._accepted).tolist()),
            prefill_seconds=self._first_token - self._read_started,
            draft_seconds=self._draft_seconds,
            verify_seconds=self._verify_seconds,
            other_seconds=max(decode_seconds - self._draft_seconds - self._verify_seconds, 0.0),
            time_to_first_token_seconds=self._first_token - self._started,
        )
        return Generation(
            text="".join(self._texts),
            token_ids=tuple(self._token_ids),
            finish_reason=reason,
            statistics=statistics,
        )
