"""What each node of a graph costs in a run: bytes of weights and cache that it reads, time in its kernel."""

from __future__ import annotations

import json
import re
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

_BLOCK: Final = re.compile(r"\blayers\.(\d+)\b")
_GATHERS: Final = ("Gather", "GatherBlockQuantized")
# Attention in either format, and which of its inputs the past values are, (B, Hkv, M, D).
_ATTENTION: Final = {"GroupQueryAttention": 4, "Attention": 2}
_KERNEL: Final = "_kernel_time"

# Of ONNX Runtime's profile: `name`, `cat`, `args`, and in microseconds `ts`, its start, and `dur`.
Event = dict[str, Any]


class NodeBytes:
    """The nodes of a graph's file by name. ONNX Runtime's own fusions have names that the file lacks, and no weights.

    Args:
        graph: the ONNX file.
    """

    def __init__(self, graph: Path) -> None:
        self._nodes = {str(node.name): node for node in ir.load(graph).graph}

    def block(self, name: str) -> int | None:
        """The decoder block that a node belongs to by its name or by its weights; None for what lies around them."""
        node = self._nodes.get(name)
        weights = () if node is None else (str(value.name) for value in node.inputs if value is not None)
        found = _BLOCK.search(" ".join((name, *weights)))
        return int(found[1]) if found else None

    def read_by(self, name: str, rows: int, num_past: int) -> int:
        """Bytes that the node `name` reads in a forward of so many rows behind so many tokens.

        A gather reads what it gives, attention the keys and values of every token. Activations are not counted.
        """
        node = self._nodes.get(name)
        if node is None or node.op_type == "Reshape":
            return 0
        if node.op_type in _ATTENTION:
            return _cache_bytes_per_token(node) * (num_past + rows)
        if node.op_type == "Embedding":
            num_inputs, group = node.attributes["inputs"].as_int(), node.attributes["group"].as_int()
            return rows * (num_inputs + (2 * -(-num_inputs // group) if group else 0))
        weights = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
        if node.op_type in _GATHERS and weights:
            return rows * weights[0].nbytes // max(weights[0].shape.numpy())
        return sum(tensor.nbytes for tensor in weights)

    def read_in_forward(self, rows: int, num_past: int) -> int:
        """Bytes that all nodes together read in such a forward."""
        return sum(self.read_by(name, rows, num_past) for name in self._nodes)


def _cache_bytes_per_token(attention: ir.Node) -> int:
    """Of keys and values."""
    values = attention.inputs[_ATTENTION[attention.op_type]]
    assert values is not None
    assert values.shape is not None
    assert values.dtype is not None
    _, num_kv_heads, _, head_size = values.shape
    assert isinstance(num_kv_heads, int)
    assert isinstance(head_size, int)
    return int(2 * num_kv_heads * head_size * values.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class NodeCost:
    """A node over several runs.

    Attributes:
        block: as of `NodeBytes`.
        kernel_ms: median milliseconds in its kernel.
        bytes_read: in one run.
    """

    op_type: str
    block: int | None
    kernel_ms: float
    bytes_read: int


def node_costs(runs: Sequence[Sequence[Event]], nodes: NodeBytes, rows: int, num_past: int) -> list[NodeCost]:
    """One entry a node of runs that have the same nodes in the same order."""
    costs = []
    for same in zip(*runs, strict=True):
        name = same[0]["name"].removesuffix(_KERNEL)
        costs.append(
            NodeCost(
                op_type=same[0]["args"]["op_name"],
                block=nodes.block(name),
                kernel_ms=statistics.median(event["dur"] for event in same) / 1e3,
                bytes_read=nodes.read_by(name, rows, num_past),
            )
        )
    return costs


def read_runs(trace: Path) -> list[list[Event]]:
    """The kernels of each `session.run`, in order, from the profile that `InferenceSession.end_profiling` names."""
    events = sorted(json.loads(trace.read_text(encoding="utf-8")), key=itemgetter("ts"))
    ends = [event["ts"] + event["dur"] for event in events if event["name"] == "model_run"]
    runs: list[list[Event]] = [[] for _ in ends]
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            runs[bisect_left(ends, event["ts"])].append(event)
    return runs
