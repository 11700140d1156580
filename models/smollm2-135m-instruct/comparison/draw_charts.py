"""The committed results as one picture for the README.

python draw_charts.py OUT.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS: Final = Path(__file__).parents[1] / "results"
HUMANEVAL, GENERAL, QUIET = "#0b5d7a", "#e0a458", "#b8c4c9"


def main(out: str) -> None:
    """Draw what is there."""
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    (by_draft, curve), (accepted, peers) = figure.subplots(2, 2)
    _speedup_by_draft(by_draft, _read("planner"))
    _verify_curve(curve, _read("without-vnni/int8-formats"))
    _accepted(accepted, _read("without-vnni/humaneval"))
    _peers(peers, _read("peers"))
    for axes in (by_draft, curve, accepted, peers):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


def _read(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def _speedup_by_draft(axes: Axes, record: dict[str, Any]) -> None:
    lengths = range(1, 9)
    for name, label, colour in (("humaneval", "HumanEval", HUMANEVAL), ("general", "general prompts", GENERAL)):
        suite = record["suites"][name]
        chains = [suite[f"chain {length}"]["speedup"] for length in lengths]
        planned, planned_head = suite["planner, both"]["speedup"], suite["planner, head"]["speedup"]
        axes.plot(lengths, chains, "o-", color=colour, label=f"{label}, chains of the head")
        axes.axhline(planned_head, color=colour, linestyle=":", label=f"{label}, planner, head alone")
        axes.axhline(planned, color=colour, linestyle="--", label=f"{label}, planner with lookup")
    axes.set(title="Speedup over exact plain decoding", xlabel="draft tokens a round", ylim=(0.8, None))
    axes.legend(fontsize="x-small", loc="upper right", bbox_to_anchor=(1, 0.93))


def _verify_curve(axes: Axes, record: dict[str, Any]) -> None:
    for name, colour in (("row", HUMANEVAL), ("block", GENERAL)):
        passes = {int(rows): found["median_ms"] for rows, found in record["passes"][name].items() if int(rows) <= 16}
        axes.plot(list(passes), list(passes.values()), "o-", color=colour, label=f"scales by {name}")
    axes.set(title="Time of a target pass", xlabel="rows", ylabel="ms", ylim=(0, None))
    axes.legend(fontsize="small")


def _accepted(axes: Axes, record: dict[str, Any]) -> None:
    histogram = record["accepted_histogram"]
    total = sum(histogram)
    axes.bar(range(len(histogram)), [count / total for count in histogram], color=HUMANEVAL)
    axes.set(title="Accepted draft tokens a round, HumanEval", xlabel="accepted", ylabel="share of rounds")


def _peers(axes: Axes, record: dict[str, Any]) -> None:
    """Each peer's fastest mode."""
    rates = {}
    for peer, found in record["peers"].items():
        modes = {mode: measured["median_decode_tokens_per_second"] for mode, measured in found["modes"].items()}
        best = max(modes, key=modes.__getitem__)
        rates[f"{peer}\n{best}"] = modes[best]
    names = sorted(rates, key=rates.__getitem__)
    colours = [HUMANEVAL if name.startswith("dovetail") else QUIET for name in names]
    axes.barh(names, [rates[name] for name in names], color=colours)
    axes.tick_params(axis="y", labelsize="x-small")
    axes.set(title="Decoding on HumanEval, each in its fastest mode", xlabel="tokens/s, median of prompts")


if __name__ == "__main__":
    main(sys.argv[1])
