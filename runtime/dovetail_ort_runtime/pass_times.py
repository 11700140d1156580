"""How long a pass takes by its number of rows, several targets in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.row_invariance import run_in_chunks
from dovetail_ort_runtime.target import Target
from dovetail_ort_runtime.verification_input import VerificationInput

ROWS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 64)
NUM_PAST: Final = 128
_LEAST_ROUNDS: Final = 3

PassTimes = dict[int, list[float]]


def time_passes(
    targets: Mapping[str, Target],
    rounds: int,
    seconds: float = math.inf,
    *,
    rows: Sequence[int] = ROWS,
    num_past: int = NUM_PAST,
) -> dict[str, PassTimes]:
    """Milliseconds of a pass by number of rows, one for each round, behind kept tokens.

    In a round each pass stands beside the same pass of the other targets; the order changes from round to round.

    Args:
        targets: by name; their caches are overwritten, and empty afterwards.
        rounds: how many at most.
        seconds: after which no further round begins, if there are three.
        rows: sizes of the passes, ascending; those that no cache has room for are left out.
        num_past: kept tokens, or as many as leave room for the largest pass.
    """
    for target in targets.values():
        target.cache.rewind(0)
        if past := min(num_past, max(target.cache.capacity - rows[-1], 0)):
            run_in_chunks(target, _tokens(target, past), target.max_rows)
    room = min(min(target.max_rows, target.cache.capacity - target.cache.length) for target in targets.values())
    sizes = [size for size in rows if size <= room]
    times: dict[str, PassTimes] = {name: {size: [] for size in sizes} for name in targets}
    started = time.perf_counter()
    for number in range(rounds):
        if number >= _LEAST_ROUNDS and time.perf_counter() - started > seconds:
            break
        for size in sizes:
            for name in list(targets)[:: 1 if number % 2 else -1]:
                times[name][size].append(_pass_ms(targets[name], size))
    for target in targets.values():
        target.cache.rewind(0)
    return times


def _pass_ms(target: Target, rows: int) -> float:
    """The second of two equal passes: the first brings threads and caches back from the other target."""
    inputs = VerificationInput.prompt(_tokens(target, rows), target.cache.length)
    target.forward(inputs, exact=False)
    started = time.perf_counter()
    target.forward(inputs, exact=False)
    return 1e3 * (time.perf_counter() - started)


def _tokens(target: Target, number: int) -> TokenArray:
    return np.arange(number) % target.vocabulary_size
