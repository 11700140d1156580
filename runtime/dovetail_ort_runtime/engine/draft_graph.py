"""The drafter's graph: features and token ids in, predicted features and the likeliest next tokens out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.formats import NATIVE
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry
from dovetail_ort_runtime.engine.cache_layout import NATIVE_LAYOUT, PORTABLE_LAYOUT
from dovetail_ort_runtime.engine.chain_graph import check_bias, graph_to_open
from dovetail_ort_runtime.engine.devices import CPU, CUDA, HostBuffers
from dovetail_ort_runtime.engine.forward_inputs import ForwardInputs, NativeInputs, PortableInputs
from dovetail_ort_runtime.engine.kv_cache import KVCache, cache_bytes, cache_type
from dovetail_ort_runtime.engine.row_limit import KEPT_ROWS, rows_that_fit, with_reserve
from dovetail_ort_runtime.engine.session import (
    SessionReport,
    device_errors,
    memory_left,
    open_session,
    report_session,
    weight_bytes,
)
from dovetail_ort_runtime.engine.target_graphs import missing_library
from dovetail_ort_runtime.errors import BundleError, InputError, UnavailableError
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime


@dataclass(frozen=True, slots=True, eq=False)
class DraftOutput:
    """What one forward gave; views that the next one overwrites.

    Attributes:
        hidden_states: (n, E) float32, of each scored row the predicted feature one position on.
        candidate_ids: (n, k) int64, likeliest first.
        log_probabilities: (n, k) float32.
    """

    hidden_states: FloatArray
    candidate_ids: TokenArray
    log_probabilities: FloatArray


class DraftGraph:
    """A session on a drafter's graph, and its cache.

    Args:
        graph: path of the ONNX file.
        entry: its dimensions.
        capacity: slots of the cache, at most the target's `max_context`: the graph knows no angles beyond.
        threads: as of `open_session`, like `trace`.
        device: `cpu`, or `cuda` for a graph in fp16.
        vram_limit: bytes that graph, cache and forwards may take on a GPU.
        trees: whether trees are drafted, too; if not, CUDA takes the graph for chains, where there is one.

    Raises:
        InputError: the graph's precision is not for that device, or graph and cache exceed the limit.
        UnavailableError: CUDA cannot be used here, or the graph is native and the library of operators is missing.

    Attributes:
        is_native: whether the graph is of this package's own operators.
        for_chains: whether the graph knows no attention bias, and gives the predicted states of scored rows only.
        ort_value: wraps an array for ONNX Runtime.
        buffers: what forwards read and write, but for the cache.
        cache: keys and values; its length is moved by whoever drafts.
        max_rows: rows of one forward at most, fewer than the entry's where the limit holds no more.
    """

    def __init__(
        self,
        graph: Path,
        entry: DrafterEntry,
        *,
        capacity: int,
        threads: int,
        device: str = CPU,
        vram_limit: int | None = None,
        trees: bool = True,
        trace: Path | None = None,
    ) -> None:
        if device == CUDA and entry.precision != "fp16":
            raise InputError(
                f"a drafter on CUDA must be in fp16, got {entry.precision}; "
                "attach it again with: dovetail-ort attach BUNDLE HEAD --precision fp16"
            )
        self.is_native = entry.format == NATIVE
        if self.is_native and not kernels.is_available():
            raise UnavailableError(missing_library(graph))
        self.device, self.threads = device, 1 if device == CUDA else threads
        cache: dict[str, Any] = {
            "num_layers": entry.num_layers,
            "num_kv_heads": entry.num_kv_heads,
            "capacity": capacity,
            "head_size": entry.head_size,
            "dtype": np.float16 if entry.precision == "fp16" else np.float32,
            "layout": NATIVE_LAYOUT if self.is_native else PORTABLE_LAYOUT,
        }
        self.weight_bytes = weight_bytes(graph)  # the graph for chains has none of its own
        left = memory_left(self.weight_bytes, cache_bytes(**cache), vram_limit)
        opened = graph_to_open(graph, entry.chain_graph, device=device, trees=trees)
        self.session = open_session(opened, threads, device=device, vram_limit=left, trace=trace)
        self.for_chains = opened != graph
        if not self.is_native:
            check_bias(self.session, opened, for_chains=self.for_chains)
        _check_dimensions(self.session, entry)
        self.cache = KVCache(**{**cache, "dtype": cache_type(self.session)}, device=device)
        self.hidden_size = entry.hidden_size
        self.max_rows = entry.max_rows
        self._no_bias = np.zeros(0 if self.is_native else with_reserve(self.max_rows) * capacity, dtype=np.float32)
        self.ort_value = import_onnxruntime().OrtValue.ortvalue_from_numpy  # a look-up takes longer than a binding
        self.buffers = HostBuffers(device)
        self._forwards: dict[tuple[int, int, int, int], _Forward] = {}
        if vram_limit is not None and device != CPU:
            self.max_rows = rows_that_fit(entry.max_rows, 1, capacity, self._run_longest)

    def inputs(self, num_rows: int, num_ancestors: int) -> ForwardInputs:
        """For forwards over so many rows with so many ancestors each."""
        if self.is_native:
            return NativeInputs(num_rows, num_ancestors)
        return PortableInputs(num_rows, self._no_bias, self.buffers)

    @device_errors()
    def forward(
        self,
        hidden_states: FloatArray,
        token_ids: TokenArray,
        position_ids: TokenArray,
        *,
        num_scored: int,
        num_candidates: int,
        num_kept: int | None = None,
        ancestors: TokenArray | None = None,
    ) -> DraftOutput:
        """Run S rows in the slots from the cache's `length` on; the length stays.

        Args:
            hidden_states: (S, E) float32, the target's or predicted ones.
            token_ids: (S,) int64, the token after each.
            position_ids: (S,) int64.
            num_scored: n, how many of the last rows are continued, 1 or more.
            num_candidates: k, continuations of each.
            num_kept: slots at the beginning that every row sees, all of the cache's `length` if None.
            ancestors: (S, A) int64, the slots behind those that a row of a tree sees, as of `ForwardInputs.fill`; None
                for a chain, whose rows see all slots before theirs. Not for a graph for chains.
        """
        assert ancestors is None or not self.for_chains, "a graph for chains knows no trees"
        num_rows, length = len(token_ids), self.cache.length
        step = self._bound(num_rows, num_scored, num_candidates, 0 if ancestors is None else ancestors.shape[1])
        step.fill(hidden_states, token_ids, position_ids)
        step.inputs.fill(length, length if num_kept is None else num_kept, ancestors)
        if self.device != CPU:
            step.bind(step.copied)  # what is bound from another device is copied now
        if not self.for_chains:
            step.bind(step.inputs.changing)
        self.session.run_with_iobinding(step.binding)
        return step.rows

    def _bound(self, num_rows: int, num_scored: int, num_candidates: int, num_ancestors: int) -> _Forward:
        # A portable forward is the same for every number of ancestors.
        key = num_rows, num_scored, num_candidates, num_ancestors if self.is_native else 0
        step = self._forwards.get(key)
        if step is None:
            step = _Forward(self, *key)
            if num_rows <= KEPT_ROWS:
                self._forwards[key] = step
        return step

    def _run_longest(self, num_rows: int) -> object:
        """Run rows that end in the last slot of the cache; the forward, which is not kept."""
        capacity = self.cache.capacity
        start = capacity - num_rows
        states = np.zeros((num_rows, self.hidden_size), dtype=np.float32)
        tokens = np.zeros(num_rows, dtype=np.int64)
        self.cache.length = start
        try:
            self.forward(states, tokens, np.arange(start, capacity), num_scored=1, num_candidates=1)
        finally:
            self.cache.length = 0
            step = self._forwards.pop((num_rows, 1, 1, 0), None)
        return step

    def report(self) -> SessionReport:
        """Where it runs."""
        return report_session(
            self.session,
            name="drafter",
            device=self.device,
            threads=self.threads,
            weight_bytes=self.weight_bytes,
            cache_bytes=self.cache.num_bytes,
        )


class _Forward:
    """Bound inputs and outputs of forwards of one size.

    Attributes:
        binding: of the session.
        inputs: what tells the rows which slots they see.
        copied: arrays that must be bound anew before each forward on another device than the CPU; binding copies them.
        rows: what the forward gives.
    """

    def __init__(
        self, model: DraftGraph, num_rows: int, num_scored: int, num_candidates: int, num_ancestors: int
    ) -> None:
        self._ort_value = model.ort_value
        self.binding: Any = model.session.io_binding()
        array = model.buffers.array
        self._hidden_states: FloatArray = array("hidden_states", (1, num_rows, model.hidden_size), np.float32)
        self._token_ids: TokenArray = array("input_ids", (1, num_rows), np.int64)
        self._position_ids: TokenArray = array("position_ids", (1, num_rows), np.int64)
        self.inputs = model.inputs(num_rows, num_ancestors)
        written: dict[str, NDArray[Any]] = {
            "hidden_states": self._hidden_states,
            "input_ids": self._token_ids,
            "position_ids": self._position_ids,
            **self.inputs.fixed,
        }
        unchanging: dict[str, NDArray[Any]] = {
            "scored_rows": np.arange(num_rows - num_scored, num_rows),
            "num_candidates": np.array([num_candidates]),
        }
        self.bind(written | unchanging)
        # Attention reads the total length where it lies, on every device.
        self.copied = {name: array for name, array in written.items() if name != "total_sequence_length"}
        num_states = num_scored if model.for_chains else num_rows
        states = array("predicted_states", (1, num_states, model.hidden_size), np.float32)
        ids = array("candidate_ids", (1, num_scored, num_candidates), np.int64)
        log_probabilities = array("candidate_log_probabilities", ids.shape, np.float32)
        outputs = {"predicted_states": states, "candidate_ids": ids, "candidate_log_probabilities": log_probabilities}
        for name, buffer in outputs.items():
            self.binding.bind_ortvalue_output(name, self._ort_value(buffer))
        model.cache.bind(self.binding)
        self.rows = DraftOutput(states[0, -num_scored:], ids[0], log_probabilities[0])

    def fill(self, hidden_states: FloatArray, token_ids: TokenArray, position_ids: TokenArray) -> None:
        """Write what the rows read."""
        self._hidden_states[0] = hidden_states
        self._token_ids[0] = token_ids
        self._position_ids[0] = position_ids

    def bind(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Bind arrays by the names of the graph's inputs."""
        for name, array in inputs.items():
            self.binding.bind_ortvalue_input(name, self._ort_value(array))


def _check_dimensions(session: Any, entry: DrafterEntry) -> None:
    shapes = {output.name: output.shape for output in session.get_outputs()}
    cache, states = (shapes.get(name, [None] * 4) for name in ("present.0.value", "predicted_states"))
    stated = (entry.num_layers, entry.num_kv_heads, entry.head_size, entry.hidden_size)
    found = ((len(shapes) - 3) // 2, cache[1], cache[3], states[-1])
    if stated != found:
        raise BundleError(
            f"the drafter's dimensions in the manifest must be those of its graph, (M, Hkv, D, E) = {found}, "
            f"got {stated}; attach the drafter again"
        )
