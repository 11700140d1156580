"""Milliseconds of what is run again and again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

_NOT_COUNTED: Final = 5  # the first ones allocate, load kernels and touch fresh memory


def time_rounds(run: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Median and quartiles of `rounds` calls, two or more."""
    for _ in range(_NOT_COUNTED):
        run()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        found.append(1e3 * (time.perf_counter() - started))
    low, middle, high = statistics.quantiles(found, n=4)
    return {"median_ms": round(middle, 4), "quartiles_ms": [round(low, 4), round(high, 4)]}
