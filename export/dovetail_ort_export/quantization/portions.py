"""Portions of a weight's outputs, so that float copies of a large head are never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

# A multiple of the 32 outputs that packed weights hold side by side.
PORTION_ROWS: Final = 256


def row_portions(num_rows: int) -> Iterator[slice]:
    """Slices of at most `PORTION_ROWS` rows that together are all rows, in order.

    Example: 600 rows are 0 to 255, 256 to 511 and 512 to 599.
    """
    for start in range(0, num_rows, PORTION_ROWS):
        yield slice(start, min(start + PORTION_ROWS, num_rows))
