"""From a load to the first token, with files in memory and without, and what memory a loaded model takes."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final

from benchmarks.kernels_comparison.part import Part, Scale, over_processes
from benchmarks.kernels_comparison.sides import AFTER, BEFORE, Side, SideProcess, Sides
from benchmarks.timing import in_turn

STATES: Final = ("warm", "cold")
PROMPT: Final = "Why is the sky blue?"
# Loads of each side in each state.
LOADS: Final = 3


class Loading(Part):
    """A step loads each side several times in each state of the page cache, each time in a new process."""

    loads_models = True

    def steps(self, scale: Scale) -> Sequence[str]:
        """As many steps as other parts have processes."""
        return [f"turn {number + 1}" for number in range(scale.processes)]

    def measure(self, _step: str, sides: Sides, _scale: Scale) -> dict[str, Any]:
        """By side and state: the measurements of each load."""
        found: dict[str, dict[str, list[Any]]] = {name: {state: [] for state in STATES} for name in sides}
        for number, state in product(range(LOADS), STATES):
            for name in in_turn([*sides], number):
                if state == "cold":
                    _forget(sides[name].bundle)
                found[name][state].append(_load(sides[name]))
        return found

    def summary(self, measured: Sequence[Any]) -> dict[str, Any]:
        """By state: seconds to the first token of both, and their ratio; memory beyond an import of ONNX Runtime."""
        sessions = measured[0][AFTER][STATES[0]][0]["sessions"]
        return {
            **{state: _state(measured, state) for state in STATES},
            "megabytes_over_import": {
                name: over_processes(_median(one[name][STATES[0]], "bytes_over_import") / 1e6 for one in measured)
                for name in (BEFORE, AFTER)
            },
            "weight_megabytes": round(sum(one["weight_bytes"] for one in sessions) / 1e6, 1),
            "full_cache_megabytes": round(sum(one["cache_bytes"] for one in sessions) / 1e6, 1),
        }


def _state(measured: Sequence[Any], state: str) -> dict[str, Any]:
    seconds = [{name: _median(one[name][state], "seconds") for name in (BEFORE, AFTER)} for one in measured]
    return {
        "seconds_to_first_token": {name: over_processes(one[name] for one in seconds) for name in (BEFORE, AFTER)},
        "after_over_before": over_processes(one[AFTER] / one[BEFORE] for one in seconds),
    }


def _median(loads: Sequence[Any], key: str) -> float:
    found: float = statistics.median(load[key] for load in loads)
    return found


def _load(side: Side) -> dict[str, Any]:
    """A load and a first token in a new process."""
    process = SideProcess(side)
    try:
        before = process.ask("import_onnxruntime")["resident_bytes"]
        process.ask("import_runtime")
        loaded = process.ask("load", tune=False)
        messages = [{"role": "user", "content": PROMPT}]
        answer = process.ask("generate", prompt=messages, max_new_tokens=1, speculative=True)
        return {
            "seconds": loaded["seconds"] + answer["seconds"],
            "load_seconds": loaded["seconds"],
            "bytes_over_import": process.ask("memory")["resident_bytes"] - before,
            "sessions": loaded["sessions"],
        }
    finally:
        process.close()


def _forget(bundle: Path) -> None:
    """Take the files of a bundle out of the page cache; what was just written goes to disk first."""
    for path in bundle.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
