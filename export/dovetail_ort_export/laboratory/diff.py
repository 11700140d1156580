"""What two graphs differ in: nodes by type, weights, bytes."""

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
        num_nodes: by operator type, other domains' as `domain::type`.
        num_initializers: weights and constants.
        initializer_bytes: of all of them.
    """

    num_nodes: dict[str, int]
    num_initializers: int
    initializer_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphDifference:
    """Two graphs beside each other.

    Attributes:
        removed: initializers of the first alone, with their bytes.
        added: initializers of the second alone, with their bytes.
        changed: initializers of both whose type, shape or values differ, with the bytes in the second.
        inputs: names of graph inputs that only one has, with `-` or `+` in front.
        outputs: likewise.
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

    Raises:
        InputError: one is no ONNX graph, or its weights lie elsewhere.
    """
    one, other = load_graph(first).graph, load_graph(second).graph
    old, new = one.initializers, other.initializers
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
    first, second = one.const_value, other.const_value
    if first is None or second is None or first.dtype != second.dtype or first.shape != second.shape:
        return first is second
    return first.tobytes() == second.tobytes()


def _only_in_one(first: Sequence[ir.Value], second: Sequence[ir.Value]) -> tuple[str, ...]:
    one, other = ([str(value.name) for value in values] for values in (first, second))
    return (*(f"-{name}" for name in one if name not in other), *(f"+{name}" for name in other if name not in one))
