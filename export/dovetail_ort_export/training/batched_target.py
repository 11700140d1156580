"""The target's graph run for many conversations at once, each in a slot of its own and at a length of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.environment import import_onnxruntime
from dovetail_ort_runtime.kv_cache import cache_type
from dovetail_ort_runtime.manifest import TargetEntry
from dovetail_ort_runtime.session import open_session


class BatchedTarget:
    """A session on the target's graph with B slots, as `text_writer.SlottedTarget`.

    Args:
        graph: path of the ONNX file.
        entry: its dimensions.
        num_slots: B.
        capacity: tokens a slot has room for.
        threads: of one pass.

    Attributes:
        num_slots: as given.
        capacity: as given.
        hidden_size: E.
    """

    def __init__(self, graph: Path, entry: TargetEntry, *, num_slots: int, capacity: int, threads: int) -> None:
        self.num_slots, self.capacity, self.hidden_size = num_slots, capacity, entry.hidden_size
        self._session = open_session(graph, threads)
        self._binding = self._session.io_binding()
        self._ort_value = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.zeros((num_slots, 1), dtype=np.int64),
            "position_ids": np.zeros((num_slots, 1), dtype=np.int64),
            "seqlens_k": np.zeros(num_slots, dtype=np.int32),
            "total_sequence_length": np.zeros((), dtype=np.int32),
        }
        self._logits = np.empty((num_slots, 1, entry.vocabulary_size), dtype=np.float32)
        self._hidden_states = np.empty((num_slots, 1, entry.hidden_size), dtype=np.float32)
        if any(value.name == "scored_rows" for value in self._session.get_inputs()):
            self._inputs["scored_rows"] = np.zeros(1, dtype=np.int64)
        self._no_bias = np.zeros(capacity, dtype=np.float32)
        self._bind(entry)

    def read(self, token_ids: TokenArray, positions: TokenArray) -> tuple[FloatArray, FloatArray]:
        """As `SlottedTarget.read`."""
        total = int(positions.max()) + 1
        self._inputs["input_ids"][:, 0] = token_ids
        self._inputs["position_ids"][:, 0] = positions
        self._inputs["seqlens_k"][:] = positions
        self._inputs["total_sequence_length"][...] = total
        bias = self._no_bias[:total].reshape(1, 1, 1, total)
        self._binding.bind_ortvalue_input("attention_bias", self._ort_value(bias))
        self._session.run_with_iobinding(self._binding)
        return self._logits[:, 0], self._hidden_states[:, 0]

    def _bind(self, entry: TargetEntry) -> None:
        for name, array in self._inputs.items():
            self._binding.bind_ortvalue_input(name, self._ort_value(array))
        self._binding.bind_ortvalue_output("logits", self._ort_value(self._logits))
        self._binding.bind_ortvalue_output("hidden_states", self._ort_value(self._hidden_states))
        shape = (self.num_slots, entry.num_kv_heads, self.capacity, entry.head_size)
        for layer in range(entry.num_layers):
            for part in ("key", "value"):
                # One buffer as past and as present: the graph writes each new row in place.
                buffer = self._ort_value(np.zeros(shape, dtype=cache_type(self._session)))
                self._binding.bind_ortvalue_input(f"past_key_values.{layer}.{part}", buffer)
                self._binding.bind_ortvalue_output(f"present.{layer}.{part}", buffer)
