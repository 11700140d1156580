"""Counts and times of one answer."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """What an answer cost; the first token counts as prefill, all others as decoding.

    Attributes:
        prompt_tokens: tokens of the prompt.
        cached_tokens: those of them that were still in the cache and not read again.
        new_tokens: tokens of the answer.
        rounds: target passes after the prefill.
        drafted_tokens: draft tokens that were verified.
        accepted_tokens: those of them that the target agreed with.
        accepted_histogram: number of rounds by accepted draft tokens; index 0 counts rounds that kept none.
        prefill_seconds: reading the prompt and choosing the first token.
        draft_seconds: proposing draft tokens, over all rounds.
        verify_seconds: target passes, over all rounds.
        other_seconds: everything else in decoding: acceptance, the cache, text.
        time_to_first_token_seconds: from the call to the first token, tokenisation and waiting for other
            answers included.
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
        """Tokens after the first over their time; 0 if there are none."""
        return (self.new_tokens - 1) / self.decode_seconds if self.rounds else 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens that were read over the prefill's time."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_seconds

    @property
    def accepted_length(self) -> float:
        """Mean tokens a round: accepted draft tokens and the bonus token; 0 without a round."""
        return 1 + self.accepted_tokens / self.rounds if self.rounds else 0.0


@dataclass(kw_only=True, slots=True)
class RoundTally:
    """Adds up the rounds of one answer."""

    rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    accepted_histogram: list[int] = field(default_factory=list)
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0

    def add(self, *, drafted: int, accepted: int, draft_seconds: float, verify_seconds: float) -> None:
        """Count one round."""
        self.rounds += 1
        self.drafted_tokens += drafted
        self.accepted_tokens += accepted
        self.accepted_histogram.extend([0] * (accepted + 1 - len(self.accepted_histogram)))
        self.accepted_histogram[accepted] += 1
        self.draft_seconds += draft_seconds
        self.verify_seconds += verify_seconds
