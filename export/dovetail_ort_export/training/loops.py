"""Loops in a text: the place where a model begins to repeat itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_LONGEST_PERIOD: Final = 32
_LEAST_REPETITIONS: Final = 3
_LEAST_LOOPING: Final = 24  # tokens; a rule of dashes or a short refrain is shorter


def loop_start(token_ids: Sequence[int]) -> int | None:
    """Where the second repetition of a loop begins, if the text ends in a loop.

    A loop is the same 1 to 32 tokens three times or more in a row, 24 tokens or more in all.

    Args:
        token_ids: the text.

    Returns:
        Index of the second repetition's first token; None if the text ends in no loop.

    Example, with smaller bounds: "a b c d c d c d" ends in the loop "c d", whose second repetition begins at 4.
    """
    for period in range(1, _LONGEST_PERIOD + 1):
        num_looping = period + _num_repeated(token_ids, period)
        if num_looping >= max(_LEAST_REPETITIONS * period, _LEAST_LOOPING):
            return len(token_ids) - num_looping + period
    return None


def _num_repeated(token_ids: Sequence[int], period: int) -> int:
    """Number of tokens at the end of the text that equal the token `period` places before."""
    num_repeated = 0
    for token_id, earlier in zip(reversed(token_ids), reversed(token_ids[:-period]), strict=False):
        if token_id != earlier:
            break
        num_repeated += 1
    return num_repeated
