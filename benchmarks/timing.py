"""Milliseconds of calls. What is compared takes turns, so that a change of the machine's speed meets all sides."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from dovetail_ort_runtime.engine.forward_times import milliseconds

Item = TypeVar("Item")
Key = TypeVar("Key")

# The first calls allocate memory, load kernels and touch fresh pages.
_UNMEASURED: Final = 5


def in_turn(items: Sequence[Item], number: int) -> list[Item]:
    """The items in their order of one round: each round begins with the next item.

    The rounds of two items are A B, B A, A B.

    Args:
        items: what takes turns.
        number: number of the round, from 0.
    """
    first = number % len(items)
    return [*items[first:], *items[:first]]


def time_turns(runs: Mapping[Key, Callable[[], object]], rounds: int, *, unmeasured: int = 0) -> dict[Key, list[float]]:
    """Milliseconds of each run, one for each round.

    Args:
        runs: calls to time, by name.
        rounds: number of rounds that are measured.
        unmeasured: number of rounds that come before them and do not count.
    """
    found: dict[Key, list[float]] = {name: [] for name in runs}
    for number in range(unmeasured + rounds):
        for name in in_turn([*runs], number):
            elapsed = milliseconds(runs[name])
            if number >= unmeasured:
                found[name].append(elapsed)
    return found


def time_rounds(run: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Median and quartiles of `rounds` calls, two or more."""
    for _ in range(_UNMEASURED):
        run()
    low, middle, high = quartiles([milliseconds(run) for _ in range(rounds)], digits=4)
    return {"median_ms": middle, "quartiles_ms": [low, high]}


def ratios(found: Sequence[float], base: Sequence[float]) -> list[float]:
    """The ratio of two measurements in each round."""
    return [one / other for one, other in zip(found, base, strict=True)]


def median_ratio(found: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios of all rounds."""
    return statistics.median(ratios(found, base))


def quartiles(values: Sequence[float], digits: int = 3) -> list[float]:
    """Lower quartile, median and upper quartile, rounded."""
    return [round(value, digits) for value in statistics.quantiles(values, n=4)]
