"""Whether a text has begun to go round in circles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_LONGEST_PERIOD: Final = 32
_LEAST_REPEATS: Final = 3
_LEAST_TOKENS: Final = 24


def loop_start(token_ids: Sequence[int]) -> int | None:
    """Where the second round of a loop begins, if the text ends in three equal rounds or more; else None.

    A loop has a period of 1 to 32 tokens and covers 24 tokens at least, so that a rule of dashes or a short refrain is
    none.

    Example, shortened: of "a b c d c d c d" the loop is "c d", its second round begins at 4.
    """
    for period in range(1, _LONGEST_PERIOD + 1):
        covered = period + _repeated(token_ids, period)
        if covered >= max(_LEAST_REPEATS * period, _LEAST_TOKENS):
            return len(token_ids) - covered + period
    return None


def _repeated(token_ids: Sequence[int], period: int) -> int:
    """How many tokens at the end equal the one a period before."""
    place = len(token_ids) - 1
    while place >= period and token_ids[place] == token_ids[place - period]:
        place -= 1
    return len(token_ids) - 1 - place
