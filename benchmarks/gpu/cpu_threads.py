"""Times of the target's forwards on the CPU, by threads and rows; JSON on standard output.

python -m benchmarks.gpu.cpu_threads BUNDLE --threads 1,2,4,8,16 --rounds 50
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.timing import time_rounds
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.machine.processor import usable_cores

ROWS: Final = (1, 2, 4, 8)
CONTEXT: Final = 256


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--threads", required=True, help="separated by commas; no more than the cores")
    parser.add_argument("--rounds", type=int, required=True)
    given = parser.parse_args()
    threads = [number for number in map(int, given.threads.split(",")) if number <= usable_cores()]
    found = {
        "cores": usable_cores(),
        "context": CONTEXT,
        "forwards": {str(number): _times(given.bundle, number, given.rounds) for number in threads},
    }
    print(json.dumps(found, indent=1))


def _times(directory: str, threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds with one number of threads, by rows."""
    bundle = Bundle(directory)
    entry = bundle.manifest.target
    target = Target(bundle.path(entry.graph), entry, max_context=CONTEXT + max(ROWS), threads=threads)
    tokens = np.arange(CONTEXT) * 37 % entry.vocabulary_size
    target.read(tokens)
    forwards = {rows: ForwardRows.chain(tokens[:rows], CONTEXT) for rows in ROWS}
    return {str(rows): time_rounds(partial(target.forward, item), rounds) for rows, item in forwards.items()}


if __name__ == "__main__":
    main()
