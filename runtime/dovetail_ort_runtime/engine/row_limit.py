"""How many rows of a forward a GPU's memory holds, found by trying: which kernels run, and what they need, varies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dovetail_ort_runtime.errors import UnavailableError

# Forwards of so many rows stay bound. Longer ones are rare, and each would keep its inputs in the device's memory.
KEPT_ROWS: Final = 16


def rows_that_fit(most: int, least: int, capacity: int, run_forward: Callable[[int], object]) -> int:
    """The largest of most, most / 2, most / 4, ... rows of which forwards fit, beside what stays bound for short ones.

    Args:
        most: rows of a forward where memory is no matter.
        least: rows that must fit.
        capacity: slots of the cache.
        run_forward: runs so many rows that end in the last slot, and gives what is bound for them.

    Raises:
        UnavailableError: that of `run_forward` with the least number.
    """
    rows = most
    while not _fits(rows, capacity, run_forward, last=rows // 2 < least):
        rows //= 2
    return rows


def with_reserve(rows: int) -> int:
    """Rows of the longest forward that must fit for so many: forwards leave gaps in a device's memory."""
    return rows + max(rows // 2, 1)


def _fits(rows: int, capacity: int, run_forward: Callable[[int], object], *, last: bool) -> bool:
    longest = with_reserve(rows)
    bound = []
    try:
        for size in (longest, *range(rows, 0, -1), longest):
            step = run_forward(min(size, capacity))
            if size <= KEPT_ROWS:
                bound.append(step)
    except UnavailableError:
        if last:
            raise
        return False
    return True
