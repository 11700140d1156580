"""A training as a picture. It knows no head."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from dovetail_ort_export.training.head_files import HeadRecord
from dovetail_ort_export.writing.figures import write_figure


def draw_training(record: HeadRecord, path: Path) -> None:
    """Write a PNG: the loss on the left, acceptance by depth on held-out text on the right.

    Args:
        record: record of the training, with one point of its history or more.
        path: path of the PNG.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [point.step for point in record.history]
    left.plot(steps, [point.loss for point in record.history])
    left.set(title="Training loss", xlabel="step", ylabel="nats per token")
    by_depth = zip(*(point.acceptance for point in record.history), strict=True)
    for depth, shares in enumerate(by_depth, start=1):
        right.plot(steps, shares, label=f"draft token {depth}")
    right.set(title="Accepted if all tokens before it were", xlabel="step", ylim=(0, 1))
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    write_figure(figure, path)
