"""How fast this machine reads memory: what a pass that reads every weight once can reach at best."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

# Far above any cache, so that every round reads memory.
_BUFFER_BYTES: Final = 1 << 30
_ROUNDS: Final = 10


def measured_read_bandwidth(threads: int) -> float:
    """Bytes per second of the fastest of ten reads of one gibibyte, each thread reading a part of its own.

    The fastest, for whatever else runs meanwhile only slows a read down.
    """
    buffer = np.ones(_BUFFER_BYTES // np.dtype(np.uint64).itemsize, dtype=np.uint64)
    parts = np.array_split(buffer, threads)
    fastest = float("inf")
    with ThreadPoolExecutor(threads) as executor:
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            list(executor.map(np.bitwise_or.reduce, parts))
            fastest = min(fastest, time.perf_counter() - started)
    return buffer.nbytes / fastest
