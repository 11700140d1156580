"""How long forwards take, measured with several graphs in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np

from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target

ROWS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 64)
NUM_PAST: Final = 128
# Rounds that are timed even where they take longer than the given time.
LEAST_ROUNDS: Final = 3

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
    """Milliseconds of forwards by number of rows, one for each round.

    The same forward of each target runs one after the other; the order changes from round to round.

    Args:
        targets: targets by name; their caches are overwritten, and empty afterwards.
        rounds: number of rounds at most.
        seconds: time after which no further round begins once there are three.
        rows: numbers of rows in ascending order; those that a cache has no room for are left out.
        num_past: tokens of context, fewer where the largest forward would have no room.
    """
    runs: dict[str, RunForward] = {}
    for name, target in targets.items():
        room = max(target.cache.capacity - rows[-1], 0)
        runs[name] = target_forwards(target, min(num_past, room))
    room = min(min(target.max_rows, target.cache.capacity - target.cache.length) for target in targets.values())
    times = time_in_turns(runs, rounds, seconds, rows=[size for size in rows if size <= room])
    for target in targets.values():
        target.cache.rewind(0)
    return times


def target_forwards(target: Target, num_past: int) -> RunForward:
    """A function that runs a forward of a target over so many new tokens.

    Args:
        target: the target; its cache is overwritten.
        num_past: tokens of context.
    """

    def run(rows: int) -> None:
        tokens = np.arange(rows) % target.vocabulary_size
        target.forward(ForwardRows.chain(tokens, target.cache.length))

    target.cache.fill(num_past)
    return run


def time_in_turns(
    runs: Mapping[str, RunForward], rounds: int, seconds: float = math.inf, *, rows: Sequence[int]
) -> dict[str, ForwardTimes]:
    """Milliseconds of forwards by number of rows, one for each round.

    Args:
        runs: functions by name that run a forward of so many rows.
        rounds: number of rounds at most.
        seconds: time after which no further round begins once there are three.
        rows: numbers of rows.
    """
    names = list(runs)
    times: dict[str, ForwardTimes] = {name: {size: [] for size in rows} for name in names}
    started = time.perf_counter()
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.perf_counter() - started > seconds:
            break
        order = names if number % 2 else names[::-1]
        for size in rows:
            for name in order:
                times[name][size].append(_forward_ms(runs[name], size))
    return times


def milliseconds(run: Callable[[], object]) -> float:
    """Milliseconds that one call takes."""
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


def _forward_ms(run: RunForward, rows: int) -> float:
    """Time of the second of two forwards: the first brings threads and caches back from the other graph."""
    run(rows)
    return milliseconds(partial(run, rows))
