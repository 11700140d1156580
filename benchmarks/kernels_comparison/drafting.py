"""Drafting four tokens beside a forward over one row, in the same process."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.kernels_comparison.forwards import CAPACITY, NUM_PAST
from benchmarks.kernels_comparison.part import Part, Scale, over_processes
from benchmarks.kernels_comparison.sides import Sides, running
from benchmarks.timing import in_turn, median_ratio

TOKENS: Final = 4


class Drafting(Part):
    """A step is a process of each side."""

    def steps(self, scale: Scale) -> Sequence[str]:
        """One step for each process."""
        return [f"process {number + 1}" for number in range(scale.processes)]

    def measure(self, _step: str, sides: Sides, scale: Scale) -> dict[str, Any]:
        """Milliseconds by side, one for each round."""
        with running(sides) as workers:
            for worker in workers.values():
                worker.ask("open_target", max_context=CAPACITY, num_past=NUM_PAST)
                worker.ask("open_drafter", max_context=CAPACITY, num_past=NUM_PAST)
            found: dict[str, dict[str, list[float]]] = {name: {"forward": [], "draft": []} for name in workers}
            for number in range(scale.rounds):
                for name in in_turn([*workers], number):
                    ask = workers[name].ask
                    found[name]["forward"].append(ask("forward", rows=1)["ms"])
                    found[name]["draft"].append(ask("draft", num_past=NUM_PAST, tokens=TOKENS)["ms"])
        return found

    def summary(self, measured: Sequence[Any]) -> dict[str, Any]:
        """By side: milliseconds of drafting, and their ratio to those of a forward over one row."""
        return {
            "tokens": TOKENS,
            "sides": {
                name: {
                    "draft_ms": over_processes(statistics.median(one[name]["draft"]) for one in measured),
                    "over_single_row": over_processes(
                        median_ratio(one[name]["draft"], one[name]["forward"]) for one in measured
                    ),
                }
                for name in measured[0]
            },
        }
