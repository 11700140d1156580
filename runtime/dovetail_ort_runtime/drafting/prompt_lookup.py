"""Drafting without a model: by copying from the text. It knows no probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.drafting.drafter import Drafter
from dovetail_ort_runtime.drafting.proposal import NOTHING, Proposal
from dovetail_ort_runtime.errors import InputError

# The best of 19 tables on the 24 prompts of benchmarks/prompts/tuning.jsonl, by measured times of verification.
DRAFT_TOKENS_BY_MATCH: Final = (1, 2, 3, 5, 8, 12)


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """An earlier occurrence of the newest tokens.

    Attributes:
        next_token_id: the newest token.
        start: position after the earlier occurrence.
        length: number of tokens that match; 0 if there is no match.
    """

    next_token_id: int
    start: int = 0
    length: int = 0


class PromptLookup(Drafter):
    """Copies what followed the latest earlier occurrence of the newest tokens, in prompt and answer.

    The longest suffix that occurs earlier decides. The longer it is, the more draft tokens it earns. A single draft
    token costs next to nothing, however weak the match. A dictionary leads from each n-gram to the position after its
    latest occurrence, so a proposal costs the same at any length of text.

    Example, observed "a b c d a", next token "b": "a b" stood at 0, so "c d a b c ..." is proposed. The copy passes
    the end of the text and goes on through the tokens just proposed.

    Args:
        draft_tokens_by_match: number of draft tokens, 0 or more, by length of the match. Entry `n - 1` is for a match
            of `n` tokens, the last entry for longer matches too. Leading zeros set a minimum: (0, 3) proposes nothing
            after a match of one token.

    Raises:
        InputError: there is no entry, or one is negative.
    """

    def __init__(self, draft_tokens_by_match: Sequence[int] = DRAFT_TOKENS_BY_MATCH) -> None:
        if not draft_tokens_by_match or min(draft_tokens_by_match) < 0:
            raise InputError(
                f"draft_tokens_by_match must be one or more numbers of 0 or more, got {tuple(draft_tokens_by_match)}"
            )
        self._draft_tokens_by_match = tuple(draft_tokens_by_match)
        self._token_ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def rewind(self, length: int) -> None:
        """Keep the first `length` observed tokens."""
        if length < len(self._token_ids):
            # An entry knows only its latest place, so the index is built anew.
            kept = self._token_ids[:length]
            self._token_ids = []
            self._after.clear()
            self._append(kept)

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:  # noqa: ARG002  text is enough here
        """Index (n,) int64 tokens."""
        self._append(token_ids.tolist())

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """A chain, or nothing if nothing matches."""
        match = self.longest_match(next_token_id)
        earned = self._draft_tokens_by_match[match.length - 1] if match.length else 0
        return self.copy(match, min(max_draft_tokens, earned))

    @property
    def longest(self) -> int:
        """Largest length of a match, in tokens; longer matches count as this long."""
        return len(self._draft_tokens_by_match)

    def copy(self, match: Match, num_tokens: int) -> Proposal:
        """A chain of what followed a match, or nothing if nothing matches.

        Args:
            match: what `longest_match` found, in the same text.
            num_tokens: number of draft tokens.
        """
        if not match.length:
            return NOTHING
        # A copy that reaches its own output repeats the stretch from `start` to the root.
        period = [*self._token_ids[match.start : match.start + num_tokens], match.next_token_id]
        return Proposal.chain([period[index % len(period)] for index in range(num_tokens)])

    def longest_match(self, next_token_id: int) -> Match:
        """The longest suffix of the text and `next_token_id` that occurs earlier."""
        # The root is not observed yet, so no entry is the suffix itself.
        newest = (*self._token_ids[-self.longest :], next_token_id)
        match = Match(next_token_id=next_token_id)
        for length in range(1, min(self.longest, len(newest)) + 1):
            start = self._after.get(newest[-length:])
            if start is None:
                break
            match = Match(start=start, length=length, next_token_id=next_token_id)
        return match

    def _append(self, token_ids: list[int]) -> None:
        begin = len(self._token_ids)
        self._token_ids += token_ids
        for end in range(begin + 1, len(self._token_ids) + 1):
            for length in range(1, min(self.longest, end) + 1):
                self._after[tuple(self._token_ids[end - length : end])] = end
