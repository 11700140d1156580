"""The time of each forward of a chain, by what the host does between two chains; JSON on standard output.

    python -m benchmarks.gpu.between_chains BUNDLE --rounds 200

On the first GPU, drafting took four times as long in a round as when the same chain is drafted again and again. There
are two possible reasons. The host may be slower after a forward of the target, because the target's weights displace
all else in its caches. Or the GPU may be slower, because it lowers its clock when it has little to do. A pause, and a
busy host without the target's weights, distinguish the two.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from benchmarks.gpu.forwards import CONTEXT, KEPT, fill, forward_of
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.devices import CUDA
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target

_STEPS: Final = 4
_NOT_COUNTED: Final = 5
_PAUSE: Final = 0.005


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, required=True)
    given = parser.parse_args()
    bundle = Bundle(given.bundle)
    target = Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, max_context=2 * CONTEXT)
    between: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "a pause of 5 ms": lambda: time.sleep(_PAUSE),
        "a busy host for 5 ms": _busy,
        "a forward of the target": lambda: target.forward(ForwardRows.chain(np.full(KEPT + 1, 5), 0)),
    }
    model = _drafter(bundle)
    found = {name: _measure(model, action, given.rounds) for name, action in between.items()}
    print(json.dumps({"context": CONTEXT, "rows": [KEPT] + [1] * (_STEPS - 1), "between": found}, indent=1))


def _drafter(bundle: Bundle) -> DraftGraph:
    entry = bundle.manifest.drafter
    assert entry is not None
    graph = bundle.path(entry.graph)
    model = DraftGraph(graph, entry, capacity=2 * CONTEXT, threads=1, device=CUDA, trees=False)
    fill(model, CONTEXT)
    return model


def _measure(model: DraftGraph, between: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Median milliseconds of each forward of a chain, and the GPU's clock meanwhile."""
    times: list[list[float]] = [[] for _ in range(_STEPS)]
    with _Clock() as clock:
        for _ in range(_NOT_COUNTED + rounds):
            between()
            for step in range(_STEPS):
                rows = KEPT if step == 0 else 1
                run = forward_of(model, rows)
                started = time.perf_counter()
                run()
                times[step].append(1e3 * (time.perf_counter() - started))
                model.cache.keep(range(rows))
            model.cache.rewind(CONTEXT)
    medians = [round(statistics.median(part[_NOT_COUNTED:]), 4) for part in times]
    return {"forwards_ms": medians, "chain_ms": round(sum(medians), 4), "sm_clock_mhz": clock.median}


def _busy() -> None:
    end = time.perf_counter() + _PAUSE
    while time.perf_counter() < end:
        pass


class _Clock:
    """The GPU's clock while this is open, as the driver's own tool reports it ten times a second.

    Attributes:
        median: median clock in MHz; None where the tool is not installed or reports nothing.
    """

    def __init__(self) -> None:
        self.median: float | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Clock:
        tool = shutil.which("nvidia-smi")
        if tool is not None:
            command = [tool, "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", "--loop-ms=100"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        text = self._process.communicate()[0]
        clocks = [float(line) for line in text.splitlines() if line.strip().isdigit()]
        self.median = statistics.median(clocks) if clocks else None


if __name__ == "__main__":
    main()
