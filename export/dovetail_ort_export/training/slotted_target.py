"""A target run for many conversations at once, each in a slot of its own: by ONNX Runtime, or the model by torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer

from dovetail_ort_export.tracing.target import cache_parameter
from dovetail_ort_export.training.chat_turns import TokenIds
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
from dovetail_ort_runtime.engine.cache_layout import NATIVE_LAYOUT
from dovetail_ort_runtime.engine.devices import CPU
from dovetail_ort_runtime.engine.kv_cache import cache_type
from dovetail_ort_runtime.engine.session import open_session
from dovetail_ort_runtime.engine.target_graphs import graphs_to_load
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime

_ROWS_A_SLOT: Final = 16


class SlottedTarget(Protocol):
    """A target with B slots, each a conversation of its own length.

    Attributes:
        num_slots: B.
        capacity: tokens a slot has room for.
        hidden_size: E.
        rows_a_slot: tokens of a slot that one forward reads at most.
    """

    num_slots: int
    capacity: int
    hidden_size: int
    rows_a_slot: int

    def read(self, token_ids: Sequence[TokenIds], positions: TokenArray) -> tuple[FloatArray, Sequence[FloatArray]]:
        """Read new tokens in every slot, one or more.

        A slot is rewound by reading at an earlier position: what stood behind it is overwritten. A position says how
        many tokens before the new ones the slot has read and keeps; positions are (B,) int64.

        Returns:
            Logits (B, V) behind the last token of each slot, and hidden states (n, E) of the n new tokens of each,
            float32, which the next forward may overwrite.
        """


def open_slotted_target(
    graph: Path, entry: TargetEntry, *, num_slots: int, capacity: int, threads: int
) -> SlottedTarget:
    """A session on the target's graph, arguments as of `Target`."""
    graphs = graphs_to_load(graph, entry, CPU)
    kind = NativeTarget if graphs.is_native else PortableTarget
    return kind(graphs.graph, entry, num_slots=num_slots, capacity=capacity, threads=threads)


class NativeTarget(SlottedTarget):
    """A session on a native graph: a slot is a sequence, and its rows have the bits that they would have alone."""

    def __init__(self, graph: Path, entry: TargetEntry, *, num_slots: int, capacity: int, threads: int) -> None:
        self.num_slots, self.capacity, self.hidden_size = num_slots, capacity, entry.hidden_size
        self.rows_a_slot = _ROWS_A_SLOT
        self._session = open_session(graph, threads)
        self._binding = self._session.io_binding()
        self._ort_value = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._logits = np.empty((1, num_slots, entry.vocabulary_size), dtype=np.float32)
        self._binding.bind_ortvalue_output("logits", self._ort_value(self._logits))
        dtype = cache_type(self._session)
        shapes = NATIVE_LAYOUT.shapes(entry.num_kv_heads, NATIVE_LAYOUT.num_slots(capacity), entry.head_size)
        for layer, (part, shape) in product(range(entry.num_layers), zip(("key", "value"), shapes, strict=True)):
            # One buffer as past and as present: the graph writes each new row in place.
            buffer = self._ort_value(np.zeros((num_slots, *shape[1:]), dtype=dtype))
            self._binding.bind_ortvalue_input(f"past_key_values.{layer}.{part}", buffer)
            self._binding.bind_ortvalue_output(f"present.{layer}.{part}", buffer)

    def read(self, token_ids: Sequence[TokenIds], positions: TokenArray) -> tuple[FloatArray, Sequence[FloatArray]]:
        """As `SlottedTarget.read`.

        Example: 2 tokens at position 5 of slot 0 and 1 at position 9 of slot 1 are rows 0 to 2, in slots 5, 6 and 9 of
        the sequences 0, 0 and 1; rows 1 and 2 are scored.
        """
        counts = np.array([len(ids) for ids in token_ids])
        ends = np.cumsum(counts)
        sequences = np.repeat(np.arange(self.num_slots), counts)
        places = np.arange(ends[-1]) - np.repeat(ends - counts - positions, counts)
        states = np.empty((1, ends[-1], self.hidden_size), dtype=np.float32)
        inputs: dict[str, NDArray[np.int64]] = {
            "input_ids": np.concatenate(token_ids)[None],
            "position_ids": places[None],
            "lengths": positions,
            "sequence_ids": sequences,
            "slots": places,
            "ancestors": np.empty((ends[-1], 0), dtype=np.int64),  # chains
            "scored_rows": ends - 1,
        }
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, self._ort_value(array))
        self._binding.bind_ortvalue_output("hidden_states", self._ort_value(states))
        self._session.run_with_iobinding(self._binding)
        return self._logits[0], np.split(states[0], ends[:-1])


class PortableTarget(SlottedTarget):
    """A session on a portable graph, whose attention takes one new row a sequence."""

    def __init__(self, graph: Path, entry: TargetEntry, *, num_slots: int, capacity: int, threads: int) -> None:
        self.num_slots, self.capacity, self.hidden_size = num_slots, capacity, entry.hidden_size
        self.rows_a_slot = 1
        self._session = open_session(graph, threads)
        self._binding = self._session.io_binding()
        self._ort_value = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.zeros((num_slots, 1), dtype=np.int64),
            "position_ids": np.zeros((num_slots, 1), dtype=np.int64),
            "seqlens_k": np.zeros(num_slots, dtype=np.int32),
            "total_sequence_length": np.zeros((), dtype=np.int32),
        }
        if any(value.name == "scored_rows" for value in self._session.get_inputs()):
            self._inputs["scored_rows"] = np.zeros(1, dtype=np.int64)
        for name, array in self._inputs.items():
            self._binding.bind_ortvalue_input(name, self._ort_value(array))
        self._logits = np.empty((num_slots, 1, entry.vocabulary_size), dtype=np.float32)
        self._hidden_states = np.empty((num_slots, 1, entry.hidden_size), dtype=np.float32)
        self._binding.bind_ortvalue_output("logits", self._ort_value(self._logits))
        self._binding.bind_ortvalue_output("hidden_states", self._ort_value(self._hidden_states))
        self._no_bias = np.zeros((1, 1, 1, capacity), dtype=np.float32)
        shape = (num_slots, entry.num_kv_heads, capacity, entry.head_size)
        for layer, part in product(range(entry.num_layers), ("key", "value")):
            # One buffer as past and as present: the graph writes each new row in place.
            buffer = self._ort_value(np.zeros(shape, dtype=cache_type(self._session)))
            self._binding.bind_ortvalue_input(f"past_key_values.{layer}.{part}", buffer)
            self._binding.bind_ortvalue_output(f"present.{layer}.{part}", buffer)

    def read(self, token_ids: Sequence[TokenIds], positions: TokenArray) -> tuple[FloatArray, Sequence[FloatArray]]:
        """As `SlottedTarget.read`."""
        total = int(positions.max()) + 1
        self._inputs["input_ids"][...] = token_ids
        self._inputs["position_ids"][:, 0] = positions
        self._inputs["seqlens_k"][:] = positions
        self._inputs["total_sequence_length"][...] = total
        self._binding.bind_ortvalue_input("attention_bias", self._ort_value(self._no_bias[..., :total]))
        self._session.run_with_iobinding(self._binding)
        return self._logits[:, 0], list(self._hidden_states)


class TorchTarget(SlottedTarget):
    """The original model, a transformers causal LM; it is moved to the device, to bfloat16 on CUDA."""

    def __init__(self, model: Any, *, num_slots: int, capacity: int, device: torch.device) -> None:
        self.num_slots, self.capacity, self.hidden_size = num_slots, capacity, int(model.config.hidden_size)
        self.rows_a_slot = 1
        self._model = model.to(device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
        self._layers = [_SlotLayer(capacity) for _ in range(model.config.num_hidden_layers)]
        self._cache = {cache_parameter(model.model): Cache(layers=self._layers)}
        self._slots = torch.arange(capacity, device=device)

    @torch.no_grad()
    def read(self, token_ids: Sequence[TokenIds], positions: TokenArray) -> tuple[FloatArray, Sequence[FloatArray]]:
        """As `SlottedTarget.read`."""
        places = torch.from_numpy(positions).to(self._slots.device)
        for layer in self._layers:
            layer.places = places
        outputs = self._model.model(
            input_ids=torch.tensor(token_ids, device=places.device),
            position_ids=places[:, None],
            attention_mask=(self._slots <= places[:, None])[:, None, None],
            use_cache=True,
            **self._cache,
        )
        hidden_states = outputs.last_hidden_state
        return _array(self._model.lm_head(hidden_states[:, 0])), list(_array(hidden_states))


class _SlotLayer(StaticLayer):  # type: ignore[misc]  # transformers has no types
    """One block's keys and values; every slot is written at a place of its own.

    What releases of transformers hand to `update` beside the two differs, so the places stand here.
    """

    places: Tensor
    keys: Tensor | None
    values: Tensor | None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self.keys is None or self.values is None:
            self.keys, self.values = self._empty(key_states), self._empty(value_states)
        rows = torch.arange(len(self.places), device=self.places.device)
        self.keys[rows, :, self.places] = key_states[:, :, 0]
        self.values[rows, :, self.places] = value_states[:, :, 0]
        return self.keys, self.values

    def get_seq_length(self, *_: Any) -> int:
        return 0  # positions and mask are given

    def _empty(self, states: Tensor) -> Tensor:
        num_slots, num_heads, _, size = states.shape
        return states.new_zeros(num_slots, num_heads, self.max_cache_len, size)


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.float().cpu().numpy()
    return array
