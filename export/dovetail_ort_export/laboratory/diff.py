"""What two graphs differ in: nodes by type, weights, bytes. It runs neither of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from dovetail_ort_export.writing.graph_file import load_graph


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphContents:
    """What a graph is made of.

    Attributes:
        num_nodes: number of nodes by operator type; types of other domains than ONNX's are `domain::type`.
        num_initializers: number of weights and constants.
        initializer_bytes: bytes of all weights and constants.
    """

    num_nodes: dict[str, int]
    num_initializers: int
    initializer_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphDifference:
    """Two graphs beside each other.

    Attributes:
        first: what the first graph is made of.
        second: what the second graph is made of.
        removed: bytes of the initializers that only the first graph has, by name.
        added: bytes of the initializers that only the second graph has, by name.
        changed: bytes in the second graph of the initializers whose type, shape or values differ, by name.
        inputs: names of the graph inputs that only one graph has: `-name` in the first, `+name` in the second.
        outputs: names of the graph outputs that only one graph has, with the same signs.
    """

    first: GraphContents
    second: GraphContents
    removed: dict[str, int]
    added: dict[str, int]
    changed: dict[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def compare_graphs(first: Path, second: Path) -> GraphDifference:
    """Compare two ONNX files.

    Args:
        first: one file.
        second: the other file.

    Raises:
        InputError: one is no ONNX graph, or its weights are in another folder.
    """
    one = load_graph(first).graph
    other = load_graph(second).graph
    old = one.initializers
    new = other.initializers
    return GraphDifference(
        first=_contents(one),
        second=_contents(other),
        removed={name: _num_bytes(value) for name, value in old.items() if name not in new},
        added={name: _num_bytes(value) for name, value in new.items() if name not in old},
        changed={name: _num_bytes(new[name]) for name in new if name in old and not _equal(old[name], new[name])},
        inputs=_only_in_one(one.inputs, other.inputs),
        outputs=_only_in_one(one.outputs, other.outputs),
    )


def _contents(graph: ir.Graph) -> GraphContents:
    types = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph)
    return GraphContents(
        num_nodes=dict(sorted(types.items())),
        num_initializers=len(graph.initializers),
        initializer_bytes=sum(map(_num_bytes, graph.initializers.values())),
    )


def _num_bytes(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.nbytes


def _equal(one: ir.Value, other: ir.Value) -> bool:
    """Whether two initializers have the same type, shape and values."""
    first = one.const_value
    second = other.const_value
    if first is None or second is None:
        return first is second
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return first.tobytes() == second.tobytes()


def _only_in_one(first: Sequence[ir.Value], second: Sequence[ir.Value]) -> tuple[str, ...]:
    """Names that only one side has, with its sign."""
    old = [str(value.name) for value in first]
    new = [str(value.name) for value in second]
    removed = [f"-{name}" for name in old if name not in new]
    added = [f"+{name}" for name in new if name not in old]
    return (*removed, *added)
