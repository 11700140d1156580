"""How long forwards take, several graphs in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target

ROWS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 64)
NUM_PAST: Final = 128
_LEAST_ROUNDS: Final = 3

ForwardTimes = dict[int, list[float]]
RunForward = Callable[[int], object]


def time_forwards(
    targets: Mapping[str, Target],
    rounds: int,
    seconds: float = math.inf,
    *,
    rows: Sequence[int] = ROWS,
    num_past: int = NUM_PAST,
) -> dict[str, ForwardTimes]:
    """Milliseconds of a forward by number of rows, one for each round, behind kept tokens.

    Each forward stands beside the same one of the other targets; the order changes from round to round.

    Args:
        targets: by name; their caches are overwritten, and empty afterwards.
        rounds: how many at most.
        seconds: after which no further round begins, if there are three.
        rows: ascending; those that no cache has room for are left out.
        num_past: kept tokens, or as many as leave room for the largest forward.
    """
    runs = {
        name: target_forwards(target, min(num_past, max(target.cache.capacity - rows[-1], 0)))
        for name, target in targets.items()
    }
    room = min(min(target.max_rows, target.cache.capacity - target.cache.length) for target in targets.values())
    times = time_in_turns(runs, rounds, seconds, rows=[size for size in rows if size <= room])
    for target in targets.values():
        target.cache.rewind(0)
    return times


def target_forwards(target: Target, num_past: int) -> RunForward:
    """What runs a forward of a target over so many new tokens behind `num_past` kept ones."""

    def run(rows: int) -> None:
        tokens = np.arange(rows) % target.vocabulary_size
        target.forward(ForwardRows.chain(tokens, target.cache.length))

    target.cache.fill(num_past)
    return run


def time_in_turns(
    runs: Mapping[str, RunForward], rounds: int, seconds: float = math.inf, *, rows: Sequence[int]
) -> dict[str, ForwardTimes]:
    """Milliseconds of what runs a forward of so many rows, as `time_forwards`."""
    times: dict[str, ForwardTimes] = {name: {size: [] for size in rows} for name in runs}
    started = time.perf_counter()
    for number in range(rounds):
        if number >= _LEAST_ROUNDS and time.perf_counter() - started > seconds:
            break
        for size in rows:
            for name in list(runs)[:: 1 if number % 2 else -1]:
                times[name][size].append(_forward_ms(runs[name], size))
    return times


def _forward_ms(run: RunForward, rows: int) -> float:
    """Of the second of two: the first brings threads and caches back from the other graph."""
    run(rows)
    started = time.perf_counter()
    run(rows)
    return 1e3 * (time.perf_counter() - started)
