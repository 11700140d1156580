"""What an answer gives: pieces while it is written, then the whole answer and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.sampler import top_k

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """What an answer cost. The first token belongs to the prefill, all others to decoding.

    Attributes:
        prompt_tokens: number of tokens of the prompt.
        cached_tokens: number of prompt tokens that were in the cache and were not read again.
        new_tokens: number of tokens of the answer.
        rounds: number of target forwards after the prefill.
        drafted_tokens: number of draft tokens that were verified.
        accepted_tokens: number of draft tokens that the target accepted.
        accepted_histogram: number of rounds for each number of accepted draft tokens, from 0 on.
        prefill_seconds: time for reading the prompt and choosing the first token.
        draft_seconds: time for proposing draft tokens, over all rounds.
        verify_seconds: time for target forwards, over all rounds.
        other_seconds: time for everything else in decoding: acceptance, the cache, text.
        time_to_first_token_seconds: time from the call to the first token, with tokenisation and waiting for other
            answers.
    """

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    rounds: int
    drafted_tokens: int
    accepted_tokens: int
    accepted_histogram: tuple[int, ...]
    prefill_seconds: float
    draft_seconds: float
    verify_seconds: float
    other_seconds: float
    time_to_first_token_seconds: float

    @property
    def decode_seconds(self) -> float:
        """Seconds for all tokens after the first."""
        return self.draft_seconds + self.verify_seconds + self.other_seconds

    @property
    def decode_tokens_per_second(self) -> float:
        """Decoding speed: tokens after the first, divided by their time; 0 without such tokens."""
        return (self.new_tokens - 1) / self.decode_seconds if self.rounds else 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prefill speed: prompt tokens that were read, divided by their time."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_seconds

    @property
    def accepted_length(self) -> float:
        """Mean number of tokens of a round, the bonus token included; 0 without a round."""
        return 1 + self.accepted_tokens / self.rounds if self.rounds else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """A finished answer.

    Attributes:
        text: text of the answer, without the stop string, and without special tokens unless the options show them.
        token_ids: ids of all new tokens, those of an end-of-text token or a stop string included.
        finish_reason: why the answer ended: `stop` at an end-of-text token or a stop string, `length` at a limit.
        statistics: counts and times of the answer.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    statistics: Statistics


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities in the target's own distribution.

    The distribution is the softmax, in float64, of the logits as they leave the graph: before repetition penalty,
    temperature, truncation and constraint.

    Attributes:
        token_id: id of the answer's token.
        logprob: logarithm of that token's probability.
        top: ids and logarithms of the most likely tokens, the likeliest first, and among equal ones the lowest id
            first; `token_id` may be among them.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, logits: FloatArray, token_id: int, num_alternatives: int) -> TokenLogprobs:
        """Log-probabilities of a token and of the most likely ones.

        Args:
            logits: (V,) float32, the row of logits that the token was chosen from.
            token_id: id of the answer's token.
            num_alternatives: number of most likely tokens, 0 or more.
        """
        shifted = logits.astype(np.float64) - logits.max()
        total = np.log(np.exp(shifted).sum())
        likeliest = top_k(logits, min(num_alternatives, len(logits)))
        return cls(
            token_id=token_id,
            logprob=float(shifted[token_id] - total),
            top=tuple(zip(likeliest.tolist(), (shifted[likeliest] - total).tolist(), strict=True)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One token's share of a stream.

    Attributes:
        text: text that this token decided; empty while a character or a stop string is undecided.
        token_id: id of the token.
        drafted: whether the drafter proposed the token.
        logprobs: log-probabilities of the token and of alternatives; None unless the options ask for them.
        generation: the finished answer, with the last piece; None before.
    """

    text: str
    token_id: int
    drafted: bool
    logprobs: TokenLogprobs | None = None
    generation: Generation | None = None
