"""A target that reads many conversations at once, each in a slot of its own, with ONNX Runtime or with torch."""

from __future__ import annotations

from collections.abc import Sequence
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
from dovetail_ort_runtime.bundle.graph_names import (
    ANCESTORS,
    ATTENTION_BIAS,
    HIDDEN_STATES,
    INPUT_IDS,
    LENGTHS,
    LOGITS,
    POSITION_IDS,
    SCORED_ROWS,
    SEQUENCE_IDS,
    SEQUENCE_LENGTHS,
    SLOTS,
    TOTAL_LENGTH,
)
from dovetail_ort_runtime.engine.cache_memory import (
    NATIVE_LAYOUT,
    PORTABLE_LAYOUT,
    CacheLayout,
    CacheMemory,
    CacheShape,
    cache_type,
)
from dovetail_ort_runtime.engine.devices import CPU
from dovetail_ort_runtime.engine.graph_choice import graphs_to_load
from dovetail_ort_runtime.engine.graph_runner import BoundForward
from dovetail_ort_runtime.engine.ort_protocols import Session
from dovetail_ort_runtime.engine.session import open_session

_ROWS_A_SLOT: Final = 16


class SlottedTarget(Protocol):
    """A target with B slots, each a conversation of its own length.

    Attributes:
        num_slots: number of slots, B.
        capacity: number of tokens that a slot has room for.
        hidden_size: length of a hidden state, E.
        rows_a_slot: largest number of tokens of a slot that one forward reads.
    """

    num_slots: int
    capacity: int
    hidden_size: int
    rows_a_slot: int

    def read(self, token_ids: Sequence[TokenIds], positions: TokenArray) -> tuple[FloatArray, Sequence[FloatArray]]:
        """Read new tokens in every slot, one or more.

        A slot is rewound by reading at an earlier position: later tokens are overwritten. A position says how many
        tokens before the new ones the slot has read and keeps; positions are (B,) int64.

        Returns:
            Logits (B, V) after the last token of each slot, and hidden states (n, E) of the n new tokens of each,
            float32, which the next forward may overwrite.
        """


def open_slotted_target(
    graph: Path, entry: TargetEntry, *, num_slots: int, capacity: int, threads: int
) -> SlottedTarget:
    """Open the target's graph for many conversations.

    Args:
        graph: path of `entry.graph`.
        entry: what the manifest says of the target.
        num_slots: number of slots, B.
        capacity: number of tokens that a slot has room for.
        threads: number of threads that one forward uses.
    """
    graphs = graphs_to_load(graph, entry, CPU)
    kind = NativeTarget if graphs.is_native else PortableTarget
    return kind(graphs.graph, entry, num_slots=num_slots, capacity=capacity, threads=threads)


class NativeTarget(SlottedTarget):
    """A session on a native graph. A slot is a sequence, whose rows have the same bits as without the other slots."""

    def __init__(self, graph: Path, entry: TargetEntry, *, num_slots: int, capacity: int, threads: int) -> None:
        self.num_slots = num_slots
        self.capacity = capacity
        self.hidden_size = entry.hidden_size
        self.rows_a_slot = _ROWS_A_SLOT
        session = open_session(graph, threads)
        self._cache = _cache(session, entry, num_slots, capacity, NATIVE_LAYOUT)
        self._logits = np.empty((1, num_slots, entry.vocabulary_size), dtype=np.float32)
        # The number of rows differs from forward to forward, so all inputs are bound anew.
        self._forward = BoundForward(session, written={}, outputs={LOGITS: self._logits})
        self._cache.bind(self._forward.binding)

    def read(self, token_ids: Sequence[TokenIds], positions: TokenArray) -> tuple[FloatArray, Sequence[FloatArray]]:
        """Read new tokens in every slot, as in `SlottedTarget.read`.

        Example: 2 tokens at position 5 of slot 0 and 1 at position 9 of slot 1 are rows 0 to 2, in slots 5, 6 and 9 of
        the sequences 0, 0 and 1; rows 1 and 2 are scored.
        """
        counts = np.array([len(ids) for ids in token_ids])
        ends = np.cumsum(counts)
        sequences = np.repeat(np.arange(self.num_slots), counts)
        places = np.arange(ends[-1]) - np.repeat(ends - counts - positions, counts)
        states = np.empty((1, ends[-1], self.hidden_size), dtype=np.float32)
        self._forward.bind_outputs({HIDDEN_STATES: states})
        self._forward.execute(
            {
                INPUT_IDS: np.concatenate(token_ids)[None],
                POSITION_IDS: places[None],
                LENGTHS: positions,
                SEQUENCE_IDS: sequences,
                SLOTS: places,
                ANCESTORS: np.empty((ends[-1], 0), dtype=np.int64),  # chains
                SCORED_ROWS: ends - 1,
            }
        )
        return self._logits[0], np.split(states[0], ends[:-1])


class PortableTarget(SlottedTarget):
    """A session on a portable graph, whose attention takes one new row for each sequence."""

    def __init__(self, graph: Path, entry: TargetEntry, *, num_slots: int, capacity: int, threads: int) -> None:
        self.num_slots = num_slots
        self.capacity = capacity
        self.hidden_size = entry.hidden_size
        self.rows_a_slot = 1
        session = open_session(graph, threads)
        self._cache = _cache(session, entry, num_slots, capacity, PORTABLE_LAYOUT)
        self._token_ids: TokenArray = np.zeros((num_slots, 1), dtype=np.int64)
        self._position_ids: TokenArray = np.zeros((num_slots, 1), dtype=np.int64)
        self._last_slots: NDArray[np.int32] = np.zeros(num_slots, dtype=np.int32)
        self._total: NDArray[np.int32] = np.zeros((), dtype=np.int32)
        self._no_bias = np.zeros((1, 1, 1, capacity), dtype=np.float32)
        self._logits = np.empty((num_slots, 1, entry.vocabulary_size), dtype=np.float32)
        self._hidden_states = np.empty((num_slots, 1, entry.hidden_size), dtype=np.float32)
        chooses_rows = any(value.name == SCORED_ROWS for value in session.get_inputs())
        self._forward = BoundForward(
            session,
            written={
                INPUT_IDS: self._token_ids,
                POSITION_IDS: self._position_ids,
                SEQUENCE_LENGTHS: self._last_slots,
                TOTAL_LENGTH: self._total,
            },
            outputs={LOGITS: self._logits, HIDDEN_STATES: self._hidden_states},
            constant={SCORED_ROWS: np.zeros(1, dtype=np.int64)} if chooses_rows else {},
        )
        self._cache.bind(self._forward.binding)

    def read(self, token_ids: Sequence[TokenIds], positions: TokenArray) -> tuple[FloatArray, Sequence[FloatArray]]:
        """Read new tokens in every slot, as in `SlottedTarget.read`."""
        total = int(positions.max()) + 1
        self._token_ids[...] = token_ids
        self._position_ids[:, 0] = positions
        self._last_slots[:] = positions
        self._total[...] = total
        self._forward.execute({ATTENTION_BIAS: self._no_bias[..., :total]})
        return self._logits[:, 0], list(self._hidden_states)


def _cache(session: Session, entry: TargetEntry, num_slots: int, capacity: int, layout: CacheLayout) -> CacheMemory:
    """Keys and values of all conversations."""
    return CacheMemory(
        CacheShape(
            num_layers=entry.num_layers,
            num_kv_heads=entry.num_kv_heads,
            capacity=capacity,
            head_size=entry.head_size,
            dtype=cache_type(session),
            layout=layout,
            num_sequences=num_slots,
        )
    )


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
        """Read new tokens in every slot, as in `SlottedTarget.read`."""
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
    """One block's keys and values; every slot is written at its own place.

    Releases of transformers pass different further arguments to `update`, so the places are kept here.
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
