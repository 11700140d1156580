"""What it costs to leave weights in the mapped file instead of copying them into large pages.

    python -m benchmarks.weight_placement BUNDLE

Both targets are open in one process; forwards over the same rows take turns.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from functools import partial
from typing import Final

import numpy as np

from benchmarks.machine import write_result
from benchmarks.timing import median_ratio, time_turns
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target

CHOICES: Final = ("map", "copy")
ROWS: Final = (1, 2, 4, 8, 16, 64)
NUM_PAST: Final = 256
ROUNDS: Final = 60
_WEIGHTS: Final = "DOVETAIL_WEIGHTS"


def main(bundle_path: str) -> None:
    """Measure, and write `weight-placement.json`."""
    targets: dict[str, Target] = {}
    opened: dict[str, float] = {}
    _open(bundle_path, CHOICES[0])  # imports, and the file into the page cache
    for choice in CHOICES:
        started = time.perf_counter()
        targets[choice] = _open(bundle_path, choice)
        opened[choice] = time.perf_counter() - started
    found = {
        "threads": targets["copy"].threads,
        "num_past": NUM_PAST,
        "rounds": ROUNDS,
        "seconds_to_first_256_tokens": {choice: round(seconds, 3) for choice, seconds in opened.items()},
        "rows": {str(rows): _compare(targets, rows) for rows in ROWS},
    }
    write_result("weight-placement", found)


def _open(bundle_path: str, choice: str) -> Target:
    """A target that holds its weights in this way and has read a prompt."""
    os.environ[_WEIGHTS] = choice
    bundle = Bundle(bundle_path)
    entry = bundle.manifest.target
    target = Target(bundle.path(entry.graph), entry, max_context=2 * NUM_PAST)
    for _ in target.chunks(_tokens(target)[:NUM_PAST], num_scored=1):
        pass
    return target


def _tokens(target: Target) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(2 * NUM_PAST, dtype=np.int64) * 37 % target.vocabulary_size


def _compare(targets: dict[str, Target], rows: int) -> dict[str, float]:
    """Median milliseconds of both, and the median of the ratios of the rounds."""
    runs = {
        choice: partial(target.forward, ForwardRows.chain(_tokens(target)[:rows], NUM_PAST))
        for choice, target in targets.items()
    }
    ms = time_turns(runs, ROUNDS)
    medians = {f"{choice}_ms": round(statistics.median(times), 3) for choice, times in ms.items()}
    return {**medians, "copy_over_map": round(median_ratio(ms["copy"], ms["map"]), 4)}


if __name__ == "__main__":
    main(sys.argv[1])
