"""Where a node of a graph stands, and how many bytes of weights and cache one run of it reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import onnx_ir as ir

_BLOCK: Final = re.compile(r"\blayers\.(\d+)\b")
_GATHERS: Final = ("Gather", "GatherBlockQuantized")
_ATTENTION: Final = "GroupQueryAttention"
_VIEW: Final = "Reshape"


class NodeBytes:
    """The nodes of a graph's file by name. ONNX Runtime's own fusions have names that the file lacks, and no weights.

    Args:
        graph: path of the ONNX file.
        cache_bytes_per_token: keys and values of one block.
    """

    def __init__(self, graph: Path, cache_bytes_per_token: int) -> None:
        self._cache_bytes = cache_bytes_per_token
        self._nodes = {str(node.name): node for node in ir.load(graph).graph}

    def block(self, name: str) -> int | None:
        """The decoder block that a node belongs to by its name or by its weights; None for what lies around them."""
        node = self._nodes.get(name)
        weights = () if node is None else (value.name for value in node.inputs if value is not None)
        for text in (name, *weights):
            if found := _BLOCK.search(str(text)):
                return int(found[1])
        return None

    def read_by(self, name: str, rows: int, num_past: int) -> int:
        """Bytes that the node `name` reads in a pass of so many rows behind so many tokens.

        A gather reads what it gives, attention the keys and values of every token. Activations are not counted.
        """
        node = self._nodes.get(name)
        if node is None or node.op_type == _VIEW:
            return 0
        if node.op_type == _ATTENTION:
            return self._cache_bytes * (num_past + rows)
        weights = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
        if node.op_type in _GATHERS and weights:
            return rows * weights[0].nbytes // max(weights[0].shape.numpy())
        return sum(tensor.nbytes for tensor in weights)

    def read_in_pass(self, rows: int, num_past: int) -> int:
        """Bytes that all nodes together read in such a pass."""
        return sum(self.read_by(name, rows, num_past) for name in self._nodes)
