"""What generating gives: pieces while it runs, the whole and its cost at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.sampler import top_k

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """What an answer cost; the first token counts as prefill, all others as decoding.

    Attributes:
        prompt_tokens: tokens of the prompt.
        cached_tokens: those of them that were in the cache and not read again.
        new_tokens: tokens of the answer.
        rounds: target forwards after the prefill.
        drafted_tokens: draft tokens that were verified.
        accepted_tokens: those of them that the target agreed with.
        accepted_histogram: number of rounds by accepted draft tokens, from 0 on.
        prefill_seconds: reading the prompt and choosing the first token.
        draft_seconds: proposing draft tokens, over all rounds.
        verify_seconds: target forwards, over all rounds.
        other_seconds: everything else in decoding: acceptance, the cache, text.
        time_to_first_token_seconds: from the call on, tokenisation and waiting for other answers included.
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
        """Time after the first token."""
        return self.draft_seconds + self.verify_seconds + self.other_seconds

    @property
    def decode_tokens_per_second(self) -> float:
        """Those after the first; 0 if there are none."""
        return (self.new_tokens - 1) / self.decode_seconds if self.rounds else 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens that were read."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_seconds

    @property
    def accepted_length(self) -> float:
        """Mean tokens a round, the bonus token included; 0 without a round."""
        return 1 + self.accepted_tokens / self.rounds if self.rounds else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """A finished answer.

    Attributes:
        text: without the stop string, and without special tokens unless the options show them.
        token_ids: all new tokens, an end-of-text token or the tokens of a stop string included.
        finish_reason: `stop` for an end-of-text token or a stop string, `length` for a limit.
        statistics: counts and times.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    statistics: Statistics


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities under the target's own distribution.

    That is the softmax of the logits as they leave the graph, in float64: before repetition penalty, temperature,
    truncation and constraint.

    Attributes:
        token_id: the token of the answer.
        logprob: its own.
        top: the likeliest tokens and theirs, likeliest first, ties to the lower id; `token_id` may be among them.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, logits: FloatArray, token_id: int, num_alternatives: int) -> TokenLogprobs:
        """Those of a token and so many of the likeliest, by the row of logits, (V,) float32, that chose it."""
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
        text: what this token decided; empty while a character or a stop string is undecided.
        token_id: the token.
        drafted: whether the drafter proposed it.
        logprobs: None unless `GenerationOptions.logprobs` asks for it.
        generation: the finished answer with the last piece, None before.
    """

    text: str
    token_id: int
    drafted: bool
    logprobs: TokenLogprobs | None = None
    generation: Generation | None = None
