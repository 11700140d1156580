"""Whole forwards over 1 to 64 rows with 256 tokens of context, beside the pace at which memory gives the weights."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.kernels_comparison.part import Part, Scale, over_processes
from benchmarks.kernels_comparison.sides import AFTER, BEFORE, Sides, running
from benchmarks.timing import in_turn, median_ratio

ROWS: Final = (1, 2, 4, 8, 16, 64)
NUM_PAST: Final = 256
CAPACITY: Final = 512


class Forwards(Part):
    """A step is a process of each side; in a round every number of rows is run by both, and the weights are read."""

    def steps(self, scale: Scale) -> Sequence[str]:
        """One step for each process."""
        return [f"process {number + 1}" for number in range(scale.processes)]

    def measure(self, _step: str, sides: Sides, scale: Scale) -> dict[str, Any]:
        """Milliseconds by side and rows, one for each round."""
        with running(sides) as workers:
            opened = {
                name: worker.ask("open_target", max_context=CAPACITY, num_past=NUM_PAST)
                for name, worker in workers.items()
            }
            ms: dict[str, dict[str, list[float]]] = {name: {str(rows): [] for rows in ROWS} for name in workers}
            reads: list[float] = []
            for number in range(scale.rounds):
                for rows in ROWS:
                    for name in in_turn([*workers], number):
                        ms[name][str(rows)].append(workers[name].ask("forward", rows=rows)["ms"])
                read = workers[AFTER].ask("read_weights")
                reads.append(read["bytes"] / read["ms"] / 1e6)
        return {"opened": opened, "ms": ms, "read_gigabytes_per_second": reads}

    def summary(self, measured: Sequence[Any]) -> dict[str, Any]:
        """By rows: milliseconds of both, their ratio, the ratio to a single row, and the share of memory's pace."""
        return {
            "num_past": NUM_PAST,
            "threads": measured[0]["opened"][AFTER]["threads"],
            "read_gigabytes_per_second": over_processes(
                statistics.median(one["read_gigabytes_per_second"]) for one in measured
            ),
            "rows": {str(rows): _row(measured, str(rows)) for rows in ROWS},
        }


def _row(measured: Sequence[Any], rows: str) -> dict[str, Any]:
    found: dict[str, Any] = {"ms": {}, "over_own_single_row": {}}
    for name in (BEFORE, AFTER):
        times = [one["ms"][name] for one in measured]
        found["ms"][name] = over_processes(statistics.median(ms[rows]) for ms in times)
        found["over_own_single_row"][name] = over_processes(median_ratio(ms[rows], ms["1"]) for ms in times)
    found["after_over_before"] = over_processes(
        median_ratio(one["ms"][AFTER][rows], one["ms"][BEFORE][rows]) for one in measured
    )
    found["share_of_read_pace"] = over_processes(_share(one, rows) for one in measured)
    return found


def _share(measured: Any, rows: str) -> float:
    """The pace at which a forward reads the weights, divided by that of a plain sum; the median of the rounds."""
    paces = [measured["opened"][AFTER]["weight_bytes"] / ms / 1e6 for ms in measured["ms"][AFTER][rows]]
    return median_ratio(paces, measured["read_gigabytes_per_second"])
