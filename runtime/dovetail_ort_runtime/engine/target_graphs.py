"""Which of a target's graphs are loaded on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.formats import NATIVE
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
from dovetail_ort_runtime.engine.devices import CPU
from dovetail_ort_runtime.errors import UnavailableError


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetGraphs:
    """One graph for the CPU, and the one of the first blocks before it, if there is one.

    Attributes:
        graph: path of all blocks, or of those behind the front.
        is_native: whether it is of this package's own operators.
        front: path of the front graph, or None.
        front_layers: number of its blocks.
    """

    graph: Path
    is_native: bool
    front: Path | None = None
    front_layers: int = 0


def graphs_to_load(graph: Path, entry: TargetEntry, front_device: str) -> TargetGraphs:
    """The graphs of a target that was cut, the whole native one, or the portable one where the library is missing.

    A native target that was cut takes its front graph for a GPU only.

    Args:
        graph: path of `entry.graph`.
        entry: of the target.
        front_device: of the first blocks of a target that was cut.

    Raises:
        UnavailableError: the target is native only, and the library cannot be loaded.
    """
    front = None if entry.front_graph is None else graph.with_name(entry.front_graph)
    if entry.format != NATIVE:
        return TargetGraphs(graph=graph, is_native=False, front=front, front_layers=entry.front_layers)
    if not kernels.is_available():
        if entry.portable_graph is None:
            raise UnavailableError(missing_library(graph))
        return TargetGraphs(graph=graph.with_name(entry.portable_graph), is_native=False)
    if front is None or front_device == CPU:
        return TargetGraphs(graph=graph, is_native=True)
    assert entry.rest_graph is not None, "a native target with a front has the rest as a graph"
    rest = graph.with_name(entry.rest_graph)
    return TargetGraphs(graph=rest, is_native=True, front=front, front_layers=entry.front_layers)


def missing_library(graph: Path) -> str:
    """Why a native graph does not run here, in one line."""
    return f"{graph.name} must have this package's library of operators; {kernels.why_missing()}"
