"""The two INT8 formats beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import RESULTS, WITHOUT_VNNI, read_json

ROWS: Final = (1, 2, 4, 8, 16, 64)
FORMATS: Final = ("block", "row")
CONSTANT_SCALE: Final = "row, constant scale"
LARGEST_LAYER: Final = "4096 x 11008"


def int8_formats() -> str:
    """Agreement, passes and HumanEval with VNNI."""
    return _formats(RESULTS, row_format="row")


def int8_formats_without_vnni() -> str:
    """The same without VNNI, and one product of 7B size."""
    costs = read_json(WITHOUT_VNNI / "layer-costs.json")
    layer = costs["layers"][LARGEST_LAYER][CONSTANT_SCALE]
    ratios = {rows: f"{layer[rows]['over_block'][1]:.2f}" for rows in ("2", "4", "8")}
    product = paragraph(
        f"A product of 7B size ({LARGEST_LAYER}) by rows takes {ratios['2']} of the block format's time for 2 rows, "
        f"{ratios['4']} for 4, {ratios['8']} for 8."
    )
    return blocks(_formats(WITHOUT_VNNI, row_format=costs["row_format"]), product)


def _formats(folder: Path, *, row_format: str) -> str:
    measured = read_json(folder / "int8-formats.json")
    agreement = measured["agreement"]["all"]
    setting = paragraph(
        f"{measured['machine']}; agreement over {agreement['row']['tokens']:,.0f} tokens of HumanEval and of Python's "
        f"language reference, which no calibration saw; {measured['humaneval']['num_prompts']} prompts of HumanEval "
        "with lookup alone:"
    )
    rows = [*_agreement(measured), *_passes(measured["passes"]), *_humaneval(measured["humaneval"])]
    return blocks(setting, table(["", "block", row_format], rows))


def _agreement(measured: dict[str, Any]) -> list[list[str]]:
    agreement = measured["agreement"]["all"]
    reference = agreement["fp32"]["nll"]
    return [
        ["bundle, MB", *(f"{measured['bytes'][name] / 1e6:.0f}" for name in FORMATS)],
        ["top-1 agreement with fp32", *(f"{agreement[name]['top1']:.1%}" for name in FORMATS)],
        ["mean KL from fp32, nats", *(f"{agreement[name]['mean_kl']:.4f}" for name in FORMATS)],
        [
            "mean negative log-likelihood over fp32's, nats",
            *(f"{agreement[name]['nll'] - reference:+.4f}" for name in FORMATS),
        ],
    ]


def _passes(passes: dict[str, Any]) -> list[list[str]]:
    rows = []
    for number in ROWS:
        label = f"pass over {number} row{'s' if number > 1 else ''}, ms"
        rows.append([label, *(f"{passes[name][str(number)]['median_ms']:.1f}" for name in FORMATS)])
    ratios = (passes[name]["8"]["over_own_single_row"][1] for name in FORMATS)
    return [*rows, ["8 rows over 1, median", *(f"{ratio:.2f}" for ratio in ratios)]]


def _humaneval(suite: dict[str, Any]) -> list[list[str]]:
    found = [suite["formats"][name] for name in FORMATS]
    rows = [
        [f"HumanEval, {mode}, tokens/s", *(f"{form['tokens_per_second'][mode]:.0f}" for form in found)]
        for mode in found[0]["tokens_per_second"]
    ]
    speedups = (form["speedup_over_the_fastest_plain_of_both"] for form in found)
    return [
        *rows,
        ["speculative over the fastest plain of both", *(f"{speedup:.2f}x" for speedup in speedups)],
        ["identical to plain", *(f"{form['identical']} of {suite['num_prompts']}" for form in found)],
    ]


def layer_costs() -> str:
    """One product at the layer sizes of a 7B model, in both formats."""
    measured = read_json(RESULTS / "layer-costs.json")
    setting = paragraph(
        f"Milliseconds (median of {measured['rounds']} rounds) and, in brackets, the quartiles of the rounds' ratios "
        f"to the block format; {measured['machine']}, onnxruntime {measured['onnxruntime']}:"
    )
    return blocks(setting, *(_layer(size, forms) for size, forms in measured["layers"].items()))


def _layer(size: str, forms: dict[str, Any]) -> str:
    rows = []
    for number in forms["block"]:
        cells = [f"{forms['block'][number]['median_ms']:.2f}"]
        for name, found in forms.items():
            if name != "block":
                low, _, high = found[number]["over_block"]
                cells.append(f"{found[number]['median_ms']:.2f} ({low:.2f} to {high:.2f})")
        rows.append([number, *cells])
    return table([f"{size}, rows", *forms], rows)


def row_format_steps() -> str:
    """What each decision on the way to the row format bought."""
    measured = read_json(RESULTS / "row-format-steps.json")
    rows = []
    for step in measured["steps"]:
        times = [f"{ratio:.2f}" for ratio in step["over_block"].values()] if "over_block" in step else [""] * 3
        agreement = step.get("agreement")
        found = [f"{agreement['top1']:.1%}", f"{agreement['mean_kl']:.4f}"] if agreement else ["", ""]
        rows.append([step["step"], *times, *found])
    return blocks(
        paragraph(f"{measured['what']}; {measured['machine']}."),
        table(["step", "1 row", "8 rows", "64 rows", "top-1", "mean KL"], rows),
    )
