"""Speculative against plain decoding, prompt by prompt."""

from __future__ import annotations

import math
import statistics
from typing import Any, Final

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import RESULTS, WITHOUT_VNNI, read_json

MACHINES: Final = {"with VNNI": RESULTS, "without VNNI": WITHOUT_VNNI}
MODES: Final = {
    "plain, one-row kernel": "plain, one-row kernel",
    "plain, exact": "plain, exact",
    "speculative, exact": "speculative",
}
# The general suite was run so often without VNNI: single answers scatter.
TIMES_RUN: Final = {"general": 3}
SUITES: Final = {
    "humaneval": "HumanEval",
    "general": "general prompts",
    "defeating": "random letters, mixed scripts, languages that the model hardly knows",
}


def humaneval() -> str:
    """Tokens per second of each way to decode, with VNNI and without."""
    measured = {label: read_json(folder / "humaneval.json") for label, folder in MACHINES.items()}
    general = {label: read_json(folder / "general.json") for label, folder in MACHINES.items()}
    header, rows = [""], [[label] for label in MODES]
    lengths, quartiles = ["tokens a round"], ["speedup by prompt, quartiles"]
    others, identical = ["speedup on the general prompts"], ["answers identical to plain ones"]
    for label, found in measured.items():
        header += [f"{label}, tokens/s", "against the faster plain mode"]
        for row, cells in zip(rows, _rates(found), strict=True):
            row += cells
        lengths += [f"{found['accepted_length']:.2f}", ""]
        quartiles += ["", "{:.2f}x to {:.2f}x".format(*found["speedup_quartiles"])]
        others += ["", f"{general[label]['speedup']:.2f}x"]
        identical += [f"{found['num_identical']} of {found['num_prompts']}", ""]
    return blocks(_setting(measured), table(header, [*rows, lengths, quartiles, others, identical]))


def _setting(measured: dict[str, dict[str, Any]]) -> str:
    found = measured["without VNNI"]
    drafter = next(session for session in found["sessions"] if session["name"] == "drafter")
    target_bytes = read_json(RESULTS / "int8-formats.json")["bytes"]["row"]
    return paragraph(
        f"SmolLM2-135M-Instruct in INT8, scales by row ({target_bytes / 1e6:.0f} MB, its drafter "
        f"{drafter['weight_bytes'] / 1e6:.0f} MB more), HumanEval, {found['num_prompts']} prompts, greedy, "
        f"{found['max_new_tokens']} new tokens, prompt by prompt in turns; onnxruntime {found['onnxruntime']}:"
    )


def _rates(found: dict[str, Any]) -> list[list[str]]:
    rates = {mode: times["decode_tokens_per_second"] for mode, times in found["modes"].items()}
    fastest = max(rates["plain, exact"], rates["plain, one-row kernel"])
    return [[f"{rates[mode]:.0f}", f"{rates[mode] / fastest:.2f}x"] for mode in MODES.values()]


def slowest_prompts() -> str:
    """The prompt of each suite on which speculation brings least."""
    rows = []
    for suite, label in SUITES.items():
        found = read_json(WITHOUT_VNNI / f"{suite}.json")
        times = TIMES_RUN.get(suite, 1)
        slowest = min(_speeds_over_exact_plain(found["prompts"], times))
        identical = f"{found['num_identical']} of {found['num_prompts']}"
        rows.append([label, f"{found['num_prompts'] // times}", f"{times}", f"{slowest:.2f}x", identical])
    header = ["suite, without VNNI", "prompts", "runs", "slowest prompt over exact plain decoding", "identical answers"]
    return table(header, rows)


def _speeds_over_exact_plain(prompts: list[dict[str, Any]], times: int) -> list[float]:
    """By prompt; the median where the suite was run several times over."""
    rates = [prompt["decode_tokens_per_second"] for prompt in prompts]
    ratios = [rate["speculative"] / rate["plain, exact"] if rate["plain, exact"] else math.inf for rate in rates]
    size = len(ratios) // times
    return [statistics.median(ratios[number::size]) for number in range(size)]


def trees() -> str:
    """How many answers side branches change, and what they bring."""
    found = read_json(WITHOUT_VNNI / "humaneval-trees.json")
    shape = found["draft_shape"]
    differ = found["num_prompts"] - found["num_identical"]
    return paragraph(
        f"With `exact=False` and trees {shape['num_rows']}/{shape['num_expansions']}/{shape['width']} of the head "
        f"alone, without VNNI, {differ} of HumanEval's {found['num_prompts']} answers differ from plain ones, at "
        f"{found['speedup']:.2f} times the speed of the faster plain mode."
    )
