"""An ablation as Markdown and as a chart."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from dovetail_ort_export.checking.agreement import LARGEST_MEAN_KL
from dovetail_ort_export.laboratory.ablation import AGAIN, ROWS, WHOLE, Ablation, Variant
from dovetail_ort_export.writing.bundle_output import write_figure

_ORIGINALS: Final = {"target": "original model", "drafter": "trained head"}
_COLOURS: Final = ("#0b3954", "#2a7f9e", "#7fb7be", "#e0a458", "#c8553d")


def markdown(ablation: Ablation, chart: str) -> str:
    """The report; `chart` is the picture's file name."""
    whole = ablation.variants[0]
    lines = [
        f"# What each pass of the {ablation.graph} {ablation.source} is worth",
        "",
        f"{ablation.machine}, {ablation.threads} threads. The recipe: {', '.join(whole.passes)}.",
        "Every variant differs in one thing. Times are of a forward over 1 to 16 rows with 128 tokens of context: the",
        "median over the rounds of its ratio to the whole recipe in the same round. Above 1.00, leaving something",
        "out costs time;",
        f"differences as small as those of {AGAIN!r}, the same files in other sessions, mean nothing.",
        f"Top token and KL divergence compare with the {_ORIGINALS[ablation.graph]} in fp32, over "
        f"{whole.agreement.num_tokens} tokens. Made again, the whole recipe",
        f"gave {'the bytes of the bundle' if ablation.reproduced else '**other bytes than the bundle has**'}.",
        "",
        f"![Time of a forward of each variant over that of the whole recipe]({chart})",
        "",
        f"| variant | {' | '.join(f'S = {rows}' for rows in ROWS)} | nodes | MB | same top token | KL, nats | rows |",
        f"|---|{'---:|' * (len(ROWS) + 4)}---|",
        *map(_row, ablation.variants),
        "",
        f"The whole recipe takes {', '.join(f'{ms:.2f}' for ms in whole.forward_ms.values())} ms for "
        f"{', '.join(map(str, ROWS))} rows.",
    ]
    if ablation.unchanged:
        lines += ["", f"Byte for byte the same as the whole recipe: {', '.join(ablation.unchanged)}."]
    if ablation.refused:
        lines += ["", "No graph comes of these:", ""]
        lines += [f"- {name}: {reason}" for name, reason in ablation.refused.items()]
    return "\n".join(lines) + "\n"


def draw_chart(ablation: Ablation, path: Path) -> None:
    """Write a PNG: by variant, the time of a pass over the whole recipe's, a bar for each number of rows."""
    variants = [variant for variant in ablation.variants if variant.name != WHOLE]
    figure = Figure(figsize=(9, 1.2 + 0.75 * len(variants)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(ROWS)
    for index, (rows, colour) in enumerate(zip(ROWS, _COLOURS, strict=True)):
        places = [number + (index - (len(ROWS) - 1) / 2) * height for number in range(len(variants))]
        ratios = [variant.over_whole[str(rows)] for variant in variants]
        axes.barh(places, [ratio - 1 for ratio in ratios], height, left=1, color=colour, label=f"{rows}")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(variants)), [variant.name for variant in variants])
    axes.invert_yaxis()
    axes.set(
        xlabel="time of a pass over the whole recipe's", title=f"{ablation.graph} {ablation.source}, {ablation.machine}"
    )
    axes.legend(title="rows", fontsize="small")
    axes.grid(axis="x", alpha=0.3)
    write_figure(figure, path)


def _row(variant: Variant) -> str:
    ratios = " | ".join(f"{variant.over_whole[str(rows)]:.2f}" for rows in ROWS)
    invariance = "stand alone" if variant.row_invariance.identical else "**depend on each other**"
    parity = "" if variant.agreement.mean_kl <= LARGEST_MEAN_KL else " **too far**"
    return (
        f"| {variant.name} | {ratios} | {variant.num_nodes} | {variant.num_bytes / 1e6:.0f} | "
        f"{variant.agreement.top1:.1%} | {variant.agreement.mean_kl:.4f}{parity} | {invariance} |"
    )
