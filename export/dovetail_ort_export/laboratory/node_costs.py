"""What each node of a graph costs in a forward: bytes of weights and cache that it reads, and time in its kernel.

It knows no bundle and no session.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from dovetail_ort_runtime.bundle.native_layout import ATTENTION, EMBEDDING

_BLOCK: Final = re.compile(r"\blayers\.(\d+)\b")
_GATHERS: Final = ("Gather", "GatherBlockQuantized")
_RESHAPE: Final = "Reshape"
# The attention operators of both formats, each with the number of the input that holds past values, (B, Hkv, M, D).
_ATTENTION: Final = {"GroupQueryAttention": 4, ATTENTION: 2}
# What follows the name of the node in ONNX Runtime's profile, for the time in its kernel.
_KERNEL: Final = "_kernel_time"

# An event of ONNX Runtime's profile: `name`, `cat` and `args`, its start `ts` and its duration `dur` in microseconds.
Event = dict[str, Any]


class NodeBytes:
    """The nodes of a graph, and what each of them reads.

    ONNX Runtime fuses nodes under names that the file does not have. These read no weights.

    Args:
        graph: the ONNX file.
    """

    def __init__(self, graph: Path) -> None:
        self._nodes = {str(node.name): node for node in ir.load(graph).graph}

    def block(self, name: str) -> int | None:
        """The decoder block that a node belongs to, by its name or by its weights; None if it is outside of all."""
        node = self._nodes.get(name)
        names = [name]
        if node is not None:
            names += [str(value.name) for value in node.inputs if value is not None]
        found = _BLOCK.search(" ".join(names))
        return int(found[1]) if found else None

    def read_by(self, name: str, rows: int, num_past: int) -> int:
        """Bytes of weights and cache that a node reads in one forward. Activations are not counted.

        Args:
            name: name of the node.
            rows: rows of the forward.
            num_past: tokens of context before them.
        """
        node = self._nodes.get(name)
        if node is None or node.op_type == _RESHAPE:
            return 0
        if node.op_type in _ATTENTION:
            return _cache_bytes_per_token(node) * (num_past + rows)
        if node.op_type == EMBEDDING:
            return rows * _embedding_row_bytes(node)
        weights = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
        if node.op_type in _GATHERS and weights:
            table = weights[0]
            num_entries = max(table.shape.numpy())
            return rows * table.nbytes // num_entries
        return sum(tensor.nbytes for tensor in weights)

    def read_in_forward(self, rows: int, num_past: int) -> int:
        """Bytes of weights and cache that all nodes together read in one forward.

        Args:
            rows: rows of the forward.
            num_past: tokens of context before them.
        """
        return sum(self.read_by(name, rows, num_past) for name in self._nodes)


def _cache_bytes_per_token(attention: ir.Node) -> int:
    """Bytes of a token's keys and values in one block."""
    values = attention.inputs[_ATTENTION[attention.op_type]]
    assert values is not None
    assert values.shape is not None
    assert values.dtype is not None
    _, num_kv_heads, _, head_size = values.shape
    assert isinstance(num_kv_heads, int)
    assert isinstance(head_size, int)
    return int(2 * num_kv_heads * head_size * values.dtype.itemsize)


def _embedding_row_bytes(embedding: ir.Node) -> int:
    """Bytes of one token in a native embedding: a byte for each number, and two for the scale of each group."""
    num_inputs = embedding.attributes["inputs"].as_int()
    group = embedding.attributes["group"].as_int()
    num_groups = math.ceil(num_inputs / group) if group else 0
    return num_inputs + 2 * num_groups


@dataclass(frozen=True, slots=True)
class NodeCost:
    """What a node costs, over several forwards.

    Attributes:
        op_type: operator type of the node.
        block: decoder block that the node belongs to, or None if it is outside of all.
        kernel_ms: median milliseconds in its kernel.
        bytes_read: bytes of weights and cache that it reads in one forward.
    """

    op_type: str
    block: int | None
    kernel_ms: float
    bytes_read: int


def node_costs(runs: Sequence[Sequence[Event]], nodes: NodeBytes, rows: int, num_past: int) -> list[NodeCost]:
    """What each node costs.

    Args:
        runs: kernels of several forwards, which have the same nodes in the same order.
        nodes: the nodes of the graph.
        rows: rows of each forward.
        num_past: tokens of context before them.
    """
    costs = []
    for events in zip(*runs, strict=True):
        name = events[0]["name"].removesuffix(_KERNEL)
        costs.append(
            NodeCost(
                op_type=events[0]["args"]["op_name"],
                block=nodes.block(name),
                kernel_ms=statistics.median(event["dur"] for event in events) / 1e3,
                bytes_read=nodes.read_by(name, rows, num_past),
            )
        )
    return costs


def read_runs(trace: Path) -> list[list[Event]]:
    """The kernels of each `session.run`, in order.

    Args:
        trace: the profile, the file that `InferenceSession.end_profiling` names.
    """
    events = sorted(json.loads(trace.read_text(encoding="utf-8")), key=itemgetter("ts"))
    ends = [event["ts"] + event["dur"] for event in events if event["name"] == "model_run"]
    runs: list[list[Event]] = [[] for _ in ends]
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            runs[bisect_left(ends, event["ts"])].append(event)
    return runs
