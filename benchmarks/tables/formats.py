"""The two formats of the export beside each other."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json

ROWS: Final = (1, 2, 4, 8, 16, 64)
FORMATS: Final = ("native", "portable")


def formats() -> str:
    """Agreement, forwards and HumanEval of both formats."""
    measured = read_json(XEON_AMX / "formats.json")
    agreement = measured["agreement"]["all"]
    setting = paragraph(
        f"Measured on {measured['machine']}: agreement over {agreement['native']['tokens']:,.0f} tokens of HumanEval "
        f"and of Python's language reference, and {measured['humaneval']['num_prompts']} prompts of HumanEval:"
    )
    rows = [*_agreement(measured), *_forwards(measured["forwards"]), *_humaneval(measured["humaneval"])]
    return blocks(setting, table(["", *FORMATS], rows))


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


def _forwards(forwards: dict[str, Any]) -> list[list[str]]:
    rows = []
    for number in ROWS:
        label = f"forward over {number} row{'s' if number > 1 else ''}, ms"
        rows.append([label, *(f"{forwards[name][str(number)]['median_ms']:.1f}" for name in FORMATS)])
    ratios = (forwards[name]["8"]["over_own_single_row"][1] for name in FORMATS)
    return [*rows, ["8 rows over 1, median", *(f"{ratio:.2f}" for ratio in ratios)]]


def _humaneval(suite: dict[str, Any]) -> list[list[str]]:
    found = [suite["formats"][name] for name in FORMATS]
    rows = [
        [f"HumanEval, {mode}, tokens/s", *(f"{form['tokens_per_second'][mode]:.0f}" for form in found)]
        for mode in found[0]["tokens_per_second"]
    ]
    return [
        *rows,
        ["speculative over baseline", *(f"{form['speedup']:.2f}x" for form in found)],
        ["identical to the baseline", *(f"{form['identical']} of {suite['num_prompts']}" for form in found)],
    ]
