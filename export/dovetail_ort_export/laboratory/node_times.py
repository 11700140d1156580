"""What ONNX Runtime's profile says of every node in every run. It knows no dimensions and no bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_KERNEL: Final = "_kernel_time"


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One run of one node.

    Attributes:
        name: of the node.
        op_type: its operator.
        kernel_us: microseconds in its kernel.
    """

    name: str
    op_type: str
    kernel_us: float


def read_runs(trace: Path) -> list[list[NodeTime]]:
    """The nodes of each `session.run`, in order.

    Args:
        trace: profile in Chrome's trace format, as `InferenceSession.end_profiling` names it.
    """
    events: list[dict[str, Any]] = json.loads(trace.read_text(encoding="utf-8"))
    kernels = sorted((event for event in events if _is_kernel(event)), key=lambda event: event["ts"])
    runs = sorted((event for event in events if event.get("name") == "model_run"), key=lambda event: event["ts"])
    return list(_by_run(runs, kernels))


def _by_run(runs: Sequence[dict[str, Any]], kernels: Sequence[dict[str, Any]]) -> Iterator[list[NodeTime]]:
    position = 0
    for run in runs:
        found = []
        while position < len(kernels) and kernels[position]["ts"] <= run["ts"] + run["dur"]:
            event = kernels[position]
            found.append(NodeTime(event["name"].removesuffix(_KERNEL), event["args"]["op_name"], float(event["dur"])))
            position += 1
        yield found


def _is_kernel(event: dict[str, Any]) -> bool:
    return event.get("cat") == "Node" and str(event.get("name")).endswith(_KERNEL)
