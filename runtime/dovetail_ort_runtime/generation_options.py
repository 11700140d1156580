"""How one answer is generated."""

from __future__ import annotations

from dataclasses import dataclass

from dovetail_ort_runtime.constraint import Constraint
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.sampling_options import SamplingOptions
from dovetail_ort_runtime.stop_strings import StopStrings
from dovetail_ort_runtime.token_logprobs import MOST_ALTERNATIVES


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOptions:
    """Settings of one call of `generate` or `stream`.

    Attributes:
        max_new_tokens: >= 1; the answer ends there at the latest.
        stop: strings that end the answer and are left out of it.
        sampling: how tokens are chosen; the bundle's own settings if None.
        max_draft_tokens: >= 0; draft tokens a round at most, 0 for plain decoding.
        exact: run every pass on the many-row kernel, so that greedy tokens are the same with any number of draft
            tokens, and keep draft tokens of a tree's first path only. False lets a pass over one token take the
            faster one-row kernel and keeps side branches, whose logits differ slightly.
        constraint: rules out tokens, so that the answer follows a grammar; draft tokens are accepted under it as ever.
            An answer that a limit ends may stop in the middle of what it demands.
        logprobs: None, or 0 to 20: every piece then has its token's log-probability and those of so many of the
            likeliest tokens.
    """

    max_new_tokens: int = 512
    stop: tuple[str, ...] = ()
    sampling: SamplingOptions | None = None
    max_draft_tokens: int = 12
    exact: bool = True
    constraint: Constraint | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be 1 or more, got {self.max_new_tokens}")
        StopStrings(self.stop)  # refuses what is no stop string
        if self.max_draft_tokens < 0:
            raise InputError(f"max_draft_tokens must be 0 or more, got {self.max_draft_tokens}; 0 decodes plainly")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_ALTERNATIVES:
            raise InputError(f"logprobs must be None or between 0 and {MOST_ALTERNATIVES}, got {self.logprobs}")
