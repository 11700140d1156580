"""How many rows of a pass a GPU's memory holds, found by trying: which kernels run, and what they need, varies."""

from collections.abc import Callable
from typing import Final

from dovetail_ort_runtime.errors import UnavailableError

# Passes of so many rows stay bound. Longer ones are rare, and each would keep its inputs in the device's memory.
KEPT_ROWS: Final = 16


def rows_that_fit(most: int, least: int, capacity: int, run_pass: Callable[[int], object]) -> int:
    """The largest of most, most / 2, most / 4, ... rows of which passes fit, beside what stays bound for short ones.

    Args:
        most: rows of a pass where memory is no matter.
        least: rows that must fit.
        capacity: slots of the cache.
        run_pass: runs so many rows that end in the last slot, and gives what is bound for them.

    Raises:
        UnavailableError: that of `run_pass` with the least number.
    """
    rows = most
    while not _fits(rows, capacity, run_pass, last=rows // 2 < least):
        rows //= 2
    return rows


def with_reserve(rows: int) -> int:
    """Rows of the longest pass that must fit where so many are asked for: passes leave gaps in a device's memory."""
    return rows + max(rows // 2, 1)


def _fits(rows: int, capacity: int, run_pass: Callable[[int], object], *, last: bool) -> bool:
    longest = with_reserve(rows)
    bound = []
    try:
        for size in (longest, *range(rows, 0, -1), longest):
            step = run_pass(min(size, capacity))
            if size <= KEPT_ROWS:
                bound.append(step)
    except UnavailableError:
        if last:
            raise
        return False
    return True
