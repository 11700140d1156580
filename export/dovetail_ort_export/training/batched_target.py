"""A target that reads many conversations at once, each a sequence of its own, with ONNX Runtime or with torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer

from dovetail_ort_export.source.causal_lm import CausalLM
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
from dovetail_ort_runtime.engine.devices import CPU, CUDA
from dovetail_ort_runtime.engine.graph_choice import graphs_to_load
from dovetail_ort_runtime.engine.graph_runner import BoundForward
from dovetail_ort_runtime.engine.ort_protocols import Session
from dovetail_ort_runtime.engine.session import open_session

_ROWS_A_SEQUENCE: Final = 16


class BatchedTarget(Protocol):
    """A target with B sequences, each a conversation of its own length.

    Attributes:
        num_sequences: number of sequences, B.
        capacity: number of tokens that a sequence has room for.
        hidden_size: length of a hidden state, E.
        rows_a_sequence: largest number of tokens of a sequence that one forward reads.
    """

    num_sequences: int
    capacity: int
    hidden_size: int
    rows_a_sequence: int

    def read(self, token_ids: Sequence[TokenIds], positions: TokenArray) -> tuple[FloatArray, Sequence[FloatArray]]:
        """Read new tokens in every sequence, one or more.

        A sequence is rewound by reading at an earlier position: later tokens are overwritten. A position says how many
        tokens before the new ones the sequence has read and keeps; positions are (B,) int64.

        Returns:
            Logits (B, V) after the last token of each sequence, and hidden states (n, E) of the n new tokens of each,
            float32, which the next forward may overwrite.
        """


def open_batched_target(
    graph: Path, entry: TargetEntry, *, num_sequences: int, capacity: int, threads: int
) -> BatchedTarget:
    """Open the target's graph for many conversations.

    Args:
        graph: path of `entry.graph`.
        entry: what the manifest says of the target.
        num_sequences: number of sequences, B.
        capacity: number of tokens that a sequence has room for.
        threads: number of threads that one forward uses.
    """
    graphs = graphs_to_load(graph, entry, CPU)
    kind = NativeTarget if graphs.is_native else PortableTarget
    return kind(graphs.graph, entry, num_sequences=num_sequences, capacity=capacity, threads=threads)


class NativeTarget(BatchedTarget):
    """A session on a native graph. Rows of a sequence have the same bits as without the other sequences."""

    def __init__(self, graph: Path, entry: TargetEntry, *, num_sequences: int, capacity: int, threads: int) -> None:
        self.num_sequences = num_sequences
        self.capacity = capacity
        self.hidden_size = entry.hidden_size
        self.rows_a_sequence = _ROWS_A_SEQUENCE
        session = open_session(graph, threads)
        self._cache = _cache(session, entry, num_sequences, capacity, NATIVE_LAYOUT)
        self._logits = np.empty((1, num_sequences, entry.vocabulary_size), dtype=np.float32)
        # The number of rows differs from forward to forward, so all inputs are bound anew.
        self._forward = BoundForward(session, written={}, outputs={LOGITS: self._logits})
        self._cache.bind(self._forward.binding)

    def read(self, token_ids: Sequence[TokenIds], positions: TokenArray) -> tuple[FloatArray, Sequence[FloatArray]]:
        """Read new tokens in every sequence, as in `BatchedTarget.read`.

        Example: 2 tokens at position 5 of sequence 0 and 1 token at position 9 of sequence 1 are rows 0 to 2. They
        write slots 5, 6 and 9 of the sequences 0, 0 and 1. Rows 1 and 2 are scored.
        """
        counts = np.array([len(ids) for ids in token_ids])
        ends = np.cumsum(counts)
        sequences = np.repeat(np.arange(self.num_sequences), counts)
        slots = np.arange(ends[-1]) - np.repeat(ends - counts - positions, counts)
        states = np.empty((1, ends[-1], self.hidden_size), dtype=np.float32)
        self._forward.bind_outputs({HIDDEN_STATES: states})
        self._forward.execute(
            {
                INPUT_IDS: np.concatenate(token_ids)[None],
                POSITION_IDS: slots[None],
                LENGTHS: positions,
                SEQUENCE_IDS: sequences,
                SLOTS: slots,
                ANCESTORS: np.empty((ends[-1], 0), dtype=np.int64),  # chains
                SCORED_ROWS: ends - 1,
            }
        )
        return self._logits[0], np.split(states[0], ends[:-1])


class PortableTarget(BatchedTarget):
    """A session on a portable graph, whose attention takes one new row for each sequence."""

    def __init__(self, graph: Path, entry: TargetEntry, *, num_sequences: int, capacity: int, threads: int) -> None:
        self.num_sequences = num_sequences
        self.capacity = capacity
        self.hidden_size = entry.hidden_size
        self.rows_a_sequence = 1
        session = open_session(graph, threads)
        self._cache = _cache(session, entry, num_sequences, capacity, PORTABLE_LAYOUT)
        self._token_ids: TokenArray = np.zeros((num_sequences, 1), dtype=np.int64)
        self._position_ids: TokenArray = np.zeros((num_sequences, 1), dtype=np.int64)
        self._last_slots: NDArray[np.int32] = np.zeros(num_sequences, dtype=np.int32)
        self._total: NDArray[np.int32] = np.zeros((), dtype=np.int32)
        self._no_bias = np.zeros((1, 1, 1, capacity), dtype=np.float32)
        self._logits = np.empty((num_sequences, 1, entry.vocabulary_size), dtype=np.float32)
        self._hidden_states = np.empty((num_sequences, 1, entry.hidden_size), dtype=np.float32)
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
        """Read new tokens in every sequence, as in `BatchedTarget.read`."""
        total = int(positions.max()) + 1
        self._token_ids[...] = token_ids
        self._position_ids[:, 0] = positions
        self._last_slots[:] = positions
        self._total[...] = total
        self._forward.execute({ATTENTION_BIAS: self._no_bias[..., :total]})
        return self._logits[:, 0], list(self._hidden_states)


def _cache(session: Session, entry: TargetEntry, num_sequences: int, capacity: int, layout: CacheLayout) -> CacheMemory:
    """Keys and values of all conversations."""
    return CacheMemory(
        CacheShape(
            num_layers=entry.num_layers,
            num_kv_heads=entry.num_kv_heads,
            capacity=capacity,
            head_size=entry.head_size,
            dtype=cache_type(session),
            layout=layout,
            num_sequences=num_sequences,
        )
    )


class TorchTarget(BatchedTarget):
    """The original model, a transformers causal LM; it is moved to the device, to bfloat16 on CUDA."""

    def __init__(self, model: CausalLM, *, num_sequences: int, capacity: int, device: torch.device) -> None:
        self.num_sequences = num_sequences
        self.capacity = capacity
        self.hidden_size = int(model.config.hidden_size)
        self.rows_a_sequence = 1
        dtype = torch.bfloat16 if device.type == CUDA else torch.float32
        self._model = model.to(device=device, dtype=dtype)
        self._layers = [_BatchedLayer(capacity) for _ in range(model.config.num_hidden_layers)]
        self._cache = {cache_parameter(model.model): Cache(layers=self._layers)}
        self._all_slots = torch.arange(capacity, device=device)

    @torch.no_grad()
    def read(self, token_ids: Sequence[TokenIds], positions: TokenArray) -> tuple[FloatArray, Sequence[FloatArray]]:
        """Read new tokens in every sequence, as in `BatchedTarget.read`."""
        slots = torch.from_numpy(positions).to(self._all_slots.device)
        for layer in self._layers:
            layer.slots = slots
        outputs = self._model.model(
            input_ids=torch.tensor(token_ids, device=slots.device),
            position_ids=slots[:, None],
            attention_mask=(self._all_slots <= slots[:, None])[:, None, None],
            use_cache=True,
            **self._cache,
        )
        hidden_states = outputs.last_hidden_state
        return _array(self._model.lm_head(hidden_states[:, 0])), list(_array(hidden_states))


class _BatchedLayer(StaticLayer):  # type: ignore[misc]  # transformers has no types
    """One block's keys and values; every sequence writes a slot of its own.

    Releases of transformers pass different further arguments to `update`, so the slots are kept here.

    Attributes:
        slots: (B,) int64, the slot that each sequence writes.
        keys: (B, Hkv, capacity, D), None before the first forward.
        values: (B, Hkv, capacity, D), None before the first forward.
    """

    slots: Tensor
    keys: Tensor | None
    values: Tensor | None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self.keys is None or self.values is None:
            self.keys = self._empty(key_states)
            self.values = self._empty(value_states)
        sequences = torch.arange(len(self.slots), device=self.slots.device)
        self.keys[sequences, :, self.slots] = key_states[:, :, 0]
        self.values[sequences, :, self.slots] = value_states[:, :, 0]
        return self.keys, self.values

    def get_seq_length(self, *_: Any) -> int:
        return 0  # positions and mask are given

    def _empty(self, states: Tensor) -> Tensor:
        num_sequences, num_heads, _, size = states.shape
        return states.new_zeros(num_sequences, num_heads, self.max_cache_len, size)


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.float().cpu().numpy()
    return array
