"""How much to draft: choices over the same recorded answers."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json


def planner() -> str:
    """Tokens a round and speedup of every choice, on both suites."""
    measured = read_json(XEON_AMX / "planner.json")
    suites = measured["suites"]
    rows = []
    for name in suites["humaneval"]:
        row = [name]
        for suite in ("humaneval", "general"):
            row += [f"{suites[suite][name]['accepted_length']:.2f}", f"{suites[suite][name]['speedup']:.2f}x"]
        rows.append(row)
    header = ["drafted in each round", "HumanEval, tokens a round", "speedup", "general, tokens a round", "speedup"]
    return blocks(table(header, rows), _ahead(measured))


def _ahead(measured: dict[str, Any]) -> str:
    """How much of drafting leaves the critical path if the drafter has a device of its own."""
    ahead = measured["chains of 4, drafted ahead"]
    curves = measured["curves"]
    lengths = [f"{ahead[suite]['accepted_length']:.2f}" for suite in ("humaneval", "general")]
    five_rows_ms = dict(zip(curves["verify_rows"], curves["verify_ms"][0], strict=True))[5]
    left_ms = (1 - ahead["humaneval"]["ready"]) * measured["suites"]["humaneval"]["chain 4"]["draft_ms"]
    return paragraph(
        f"Chains of 4, drafted ahead as beside a slow target, are ready {ahead['humaneval']['ready']:.0%} of the time "
        f"on HumanEval and {ahead['general']['ready']:.0%} on the general prompts ({lengths[0]} and {lengths[1]} "
        "tokens a round). A drafter on a device of its own takes this part of drafting off the critical path. At this "
        f"CPU's times, {left_ms / (left_ms + five_rows_ms):.0%} of a round would still be drafting on HumanEval."
    )


def spinning() -> str:
    """What it costs when the threads of target and drafter spin between forwards."""
    measured = read_json(XEON_AMX / "spinning.json")
    return paragraph(
        "With ONNX Runtime's own spinning the same answers take "
        f"{measured['speed_over_spinning'][1]:.2f} times as long (median of {measured['num_prompts']} prompts in "
        f"turns, {measured['machine']})."
    )
