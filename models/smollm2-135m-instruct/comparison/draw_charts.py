"""The committed results as one picture for the README.

python draw_charts.py OUT.png
"""

from __future__ import annotations

import sys
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.result_files import XEON_AMX, read_json

HUMANEVAL, GENERAL, QUIET = "#0b5d7a", "#e0a458", "#b8c4c9"


def main(out: str) -> None:
    """Draw what is there."""
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    (by_draft, curve), (accepted, peers) = figure.subplots(2, 2)
    _speedup_by_draft(by_draft, read_json(XEON_AMX / "planner.json"))
    _verify_curve(curve, read_json(XEON_AMX / "formats.json"))
    _accepted(accepted, read_json(XEON_AMX / "humaneval.json"))
    _peers(peers, read_json(XEON_AMX / "peers.json"))
    for axes in (by_draft, curve, accepted, peers):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


def _speedup_by_draft(axes: Axes, record: dict[str, Any]) -> None:
    lengths = range(1, 9)
    for name, label, colour in (("humaneval", "HumanEval", HUMANEVAL), ("general", "general prompts", GENERAL)):
        suite = record["suites"][name]
        chains = [suite[f"chain {length}"]["speedup"] for length in lengths]
        planned, planned_head = suite["planner, both, trees"]["speedup"], suite["planner, head, trees"]["speedup"]
        axes.plot(lengths, chains, "o-", color=colour, label=f"{label}, chains of the head")
        axes.axhline(planned_head, color=colour, linestyle=":", label=f"{label}, planner, head alone")
        axes.axhline(planned, color=colour, linestyle="--", label=f"{label}, planner with lookup")
    axes.set(title="Speedup over decoding without speculation", xlabel="draft tokens a round", ylim=(0.8, None))
    axes.legend(fontsize="x-small", loc="upper right", bbox_to_anchor=(1, 0.93))


def _verify_curve(axes: Axes, record: dict[str, Any]) -> None:
    for name, colour in (("native", HUMANEVAL), ("portable", GENERAL)):
        passes = {int(rows): found["median_ms"] for rows, found in record["passes"][name].items() if int(rows) <= 16}
        axes.plot(list(passes), list(passes.values()), "o-", color=colour, label=name)
    axes.set(title="Time of a forward of the target", xlabel="rows", ylabel="ms", ylim=(0, None))
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
