"""How many rows of a pass a GPU's memory holds, found by trying: which kernels run, and what they need, varies."""

from collections.abc import Callable

from dovetail_ort_runtime.errors import UnavailableError


def rows_that_fit(most: int, least: int, capacity: int, run_pass: Callable[[int], object]) -> int:
    """The largest of most, most / 2, most / 4, ... rows whose pass, and a little more, fits.

    Args:
        most: rows of a pass where memory is no matter.
        least: rows that must fit.
        capacity: slots of the cache.
        run_pass: runs so many rows that end in the last slot.

    Raises:
        UnavailableError: that of `run_pass` with the least number.
    """
    rows = most
    while True:
        try:
            run_pass(min(with_reserve(rows), capacity))
        except UnavailableError:
            if rows // 2 < least:
                raise
            rows //= 2
        else:
            return rows


def with_reserve(rows: int) -> int:
    """Rows that must fit where so many are asked for: passes of other sizes leave gaps in ONNX Runtime's memory."""
    return rows + max(rows // 4, 1)
