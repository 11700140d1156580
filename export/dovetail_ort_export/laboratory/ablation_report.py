"""An ablation as Markdown and as a chart. It measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from dovetail_ort_export.checking.agreement import LARGEST_MEAN_KL
from dovetail_ort_export.laboratory.ablation import AGAIN, ROWS, WHOLE, Ablation, Variant
from dovetail_ort_export.writing.figures import write_figure
from dovetail_ort_runtime.bundle.graph_names import DRAFTER, TARGET

_ORIGINALS: Final = {TARGET: "original model", DRAFTER: "trained head"}
_COLOURS: Final = ("#0b3954", "#2a7f9e", "#7fb7be", "#e0a458", "#c8553d")  # one for each of `ROWS`
_BAR_SHARE: Final = 0.8  # share of a variant's place that its bars take


def markdown(ablation: Ablation, chart: str) -> str:
    """The report as a page of Markdown.

    Args:
        ablation: what was measured.
        chart: file name of the picture that the page shows.
    """
    return "\n".join(_page(ablation, chart)) + "\n"


def _page(ablation: Ablation, chart: str) -> Iterator[str]:
    whole = ablation.variants[0]
    yield f"# What each graph pass of the {ablation.graph} {ablation.source} is worth"
    yield ""
    yield from _explanation(ablation, whole)
    yield ""
    yield f"![Time of a forward of each variant over that of the whole recipe]({chart})"
    yield ""
    yield from _table(ablation)
    yield ""
    times = ", ".join(f"{ms:.2f}" for ms in whole.forward_ms.values())
    yield f"A forward of the whole recipe takes {times} ms for {', '.join(map(str, ROWS))} rows."
    if ablation.unchanged:
        yield ""
        yield f"These are byte for byte the same as the whole recipe: {', '.join(ablation.unchanged)}."
    if ablation.refused:
        yield ""
        yield "These make no graph:"
        yield ""
        for name, reason in ablation.refused.items():
            yield f"- {name}: {reason}"


def _explanation(ablation: Ablation, whole: Variant) -> Iterator[str]:
    bytes_made = "the bytes of the bundle" if ablation.reproduced else "**other bytes than the bundle has**"
    yield f"{ablation.machine}, {ablation.threads} threads. The recipe: {', '.join(whole.passes)}."
    yield "Every variant differs in one thing. Times are of a forward over 1 to 16 rows with 128 tokens of context,"
    yield "over the time of the whole recipe in the same round. The table has the median over the rounds."
    yield "Above 1.00, leaving something out costs time. Differences as small as those of"
    yield f"{AGAIN!r}, which has the same files in other sessions, mean nothing."
    yield f"Top token and KL divergence compare with the {_ORIGINALS[ablation.graph]} in fp32, over"
    yield f"{whole.agreement.num_tokens} tokens. Made again, the whole recipe gave {bytes_made}."


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table.

    Attributes:
        title: heading of the column.
        cell: function from a variant to the text of its cell.
        is_number: whether the cells are numbers, which stand at the right.
    """

    title: str
    cell: Callable[[Variant], str]
    is_number: bool = True


def _table(ablation: Ablation) -> Iterator[str]:
    yield _row(column.title for column in _COLUMNS)
    yield "|" + "|".join("---:" if column.is_number else "---" for column in _COLUMNS) + "|"
    for variant in ablation.variants:
        yield _row(column.cell(variant) for column in _COLUMNS)


def _row(cells: Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio_column(rows: int) -> _Column:
    return _Column(f"S = {rows}", lambda variant: f"{variant.over_whole[str(rows)]:.2f}")


def _divergence(variant: Variant) -> str:
    remark = "" if variant.agreement.mean_kl <= LARGEST_MEAN_KL else " **too far**"
    return f"{variant.agreement.mean_kl:.4f}{remark}"


_COLUMNS: Final = (
    _Column("variant", lambda variant: variant.name, is_number=False),
    *map(_ratio_column, ROWS),
    _Column("nodes", lambda variant: str(variant.num_nodes)),
    _Column("MB", lambda variant: f"{variant.num_bytes / 1e6:.0f}"),
    _Column("same top token", lambda variant: f"{variant.agreement.top1:.1%}"),
    _Column("KL, nats", _divergence),
    _Column(
        "batch-invariant", lambda variant: "yes" if variant.row_invariance.identical else "**no**", is_number=False
    ),
)


def draw_chart(ablation: Ablation, path: Path) -> None:
    """Write a PNG with bars: for each variant and number of rows, its time over that of the whole recipe.

    Args:
        ablation: what was measured.
        path: path of the PNG.
    """
    variants = [variant for variant in ablation.variants if variant.name != WHOLE]
    figure = Figure(figsize=(9, 1.2 + 0.75 * len(variants)), layout="constrained")
    axes = figure.subplots()
    height = _BAR_SHARE / len(ROWS)
    for index, (rows, colour) in enumerate(zip(ROWS, _COLOURS, strict=True)):
        offset = (index - (len(ROWS) - 1) / 2) * height  # from the middle of a variant's place
        places = [number + offset for number in range(len(variants))]
        lengths = [variant.over_whole[str(rows)] - 1 for variant in variants]
        axes.barh(places, lengths, height, left=1, color=colour, label=str(rows))
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(variants)), [variant.name for variant in variants])
    axes.invert_yaxis()
    axes.set(
        xlabel="time of a forward over that of the whole recipe",
        title=f"{ablation.graph} {ablation.source}, {ablation.machine}",
    )
    axes.legend(title="rows", fontsize="small")
    axes.grid(axis="x", alpha=0.3)
    write_figure(figure, path)
