"""Loss and acceptance over a training, as a picture."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from dovetail_ort_export.training.head_directory import HeadRecord
from dovetail_ort_export.whole_file import write_whole


def draw_curves(record: HeadRecord, path: Path) -> None:
    """Write a PNG: the loss on the left, acceptance by depth on held-out text on the right."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [point.step for point in record.history]
    left.plot(steps, [point.loss for point in record.history])
    left.set(title="Training loss", xlabel="step", ylabel="nats a token")
    for depth in range(len(record.history[0].acceptance)):
        right.plot(steps, [point.acceptance[depth] for point in record.history], label=f"draft token {depth + 1}")
    right.set(title="Accepted, if all before were", xlabel="step", ylim=(0, 1))
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_whole(path, buffer.getbuffer())
