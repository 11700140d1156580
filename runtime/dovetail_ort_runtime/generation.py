"""What generating gives: pieces while it runs, the whole at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dovetail_ort_runtime.statistics import Statistics
from dovetail_ort_runtime.token_logprobs import TokenLogprobs

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """A finished answer.

    Attributes:
        text: without special tokens and without the stop string.
        token_ids: all new tokens, an end-of-text token or the tokens of a stop string included.
        finish_reason: `stop` for an end-of-text token or a stop string, `length` for a limit.
        statistics: counts and times.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    statistics: Statistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One token's share of a stream.

    Attributes:
        text: what this token decided; empty while a character or a stop string is undecided.
        token_id: the token.
        drafted: whether the drafter proposed it.
        logprobs: how likely it was, and what else; None unless `GenerationOptions.logprobs` asks for it.
        generation: the finished answer with the last piece, None before.
    """

    text: str
    token_id: int
    drafted: bool
    logprobs: TokenLogprobs | None = None
    generation: Generation | None = None
