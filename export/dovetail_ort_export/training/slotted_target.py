"""A target run for many conversations at once, each in a slot of its own: by ONNX Runtime, or the model by torch."""

from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer

from dovetail_ort_export.tracing import cache_parameter
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.environment import import_onnxruntime
from dovetail_ort_runtime.kv_cache import cache_type
from dovetail_ort_runtime.manifest import TargetEntry
from dovetail_ort_runtime.session import open_session


class SlottedTarget(Protocol):
    """A target with B slots, each a conversation of its own length.

    Attributes:
        num_slots: B.
        capacity: tokens a slot has room for.
        hidden_size: E.
    """

    num_slots: int
    capacity: int
    hidden_size: int

    def read(self, token_ids: TokenArray, positions: TokenArray) -> tuple[FloatArray, FloatArray]:
        """Read one token in every slot.

        A slot is rewound by reading at an earlier position: what stood behind it is overwritten. A position says how
        many tokens before it the slot has read and keeps; positions and token ids are (B,) int64.

        Returns:
            Logits (B, V) and hidden states (B, E), float32, views that the next pass may overwrite.
        """


class BatchedTarget(SlottedTarget):
    """A session on the target's graph."""

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

    def read(self, token_ids: TokenArray, positions: TokenArray) -> tuple[FloatArray, FloatArray]:
        """As `SlottedTarget.read`."""
        total = int(positions.max()) + 1
        self._inputs["input_ids"][:, 0] = token_ids
        self._inputs["position_ids"][:, 0] = positions
        self._inputs["seqlens_k"][:] = positions
        self._inputs["total_sequence_length"][...] = total
        self._binding.bind_ortvalue_input("attention_bias", self._ort_value(self._no_bias[..., :total]))
        self._session.run_with_iobinding(self._binding)
        return self._logits[:, 0], self._hidden_states[:, 0]


class TorchTarget(SlottedTarget):
    """The original model, a transformers causal LM; it is moved to the device, to bfloat16 on CUDA."""

    def __init__(self, model: Any, *, num_slots: int, capacity: int, device: torch.device) -> None:
        self.num_slots, self.capacity, self.hidden_size = num_slots, capacity, int(model.config.hidden_size)
        self._model = model.to(device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
        self._layers = [_SlotLayer(capacity) for _ in range(model.config.num_hidden_layers)]
        self._cache = {cache_parameter(model.model): Cache(layers=self._layers)}
        self._slots = torch.arange(capacity, device=device)

    @torch.no_grad()
    def read(self, token_ids: TokenArray, positions: TokenArray) -> tuple[FloatArray, FloatArray]:
        """As `SlottedTarget.read`."""
        places = torch.from_numpy(positions).to(self._slots.device)
        for layer in self._layers:
            layer.places = places
        outputs = self._model.model(
            input_ids=torch.from_numpy(token_ids).to(places.device)[:, None],
            position_ids=places[:, None],
            attention_mask=(self._slots <= places[:, None])[:, None, None],
            use_cache=True,
            **self._cache,
        )
        hidden_states = outputs.last_hidden_state[:, 0]
        return _array(self._model.lm_head(hidden_states)), _array(hidden_states)


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
