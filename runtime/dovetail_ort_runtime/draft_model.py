"""The drafter's graph: features and token ids in, predicted features and the likeliest next tokens out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.chain_graph import ATTENTION_BIAS, check_bias, graph_to_open
from dovetail_ort_runtime.devices import CPU, CUDA, host_zeros
from dovetail_ort_runtime.environment import import_onnxruntime
from dovetail_ort_runtime.errors import BundleError, InputError
from dovetail_ort_runtime.kv_cache import KVCache, cache_bytes
from dovetail_ort_runtime.manifest import DrafterEntry
from dovetail_ort_runtime.row_limit import KEPT_ROWS, rows_that_fit, with_reserve
from dovetail_ort_runtime.session import (
    SessionReport,
    device_errors,
    memory_left,
    open_session,
    report_session,
    weight_bytes,
)


@dataclass(frozen=True, slots=True, eq=False)
class DraftRows:
    """What one pass gave; views that the next of its size overwrites.

    Attributes:
        hidden_states: (n, E) float32, of each scored row the predicted feature one position on.
        candidate_ids: (n, k) int64, likeliest first.
        log_probabilities: (n, k) float32.
    """

    hidden_states: FloatArray
    candidate_ids: TokenArray
    log_probabilities: FloatArray


class DraftModel:
    """A session on a drafter's graph, and its cache.

    Args:
        graph: path of the ONNX file.
        entry: its dimensions.
        capacity: slots of the cache, at most the target's `max_context`: the graph knows no angles beyond.
        threads: as of `open_session`, like `trace`.
        device: `cpu`, or `cuda` for a graph in fp16.
        vram_limit: bytes that graph, cache and passes may take on a GPU.
        trees: whether trees are drafted, too; if not, CUDA takes the graph for chains, where there is one.

    Raises:
        InputError: the graph's precision is not for that device, or graph and cache exceed the limit.
        UnavailableError: CUDA cannot be used here.

    Attributes:
        for_chains: whether the graph knows no attention bias, and gives the predicted states of scored rows only.
        cache: keys and values; its length is moved by whoever drafts.
        max_rows: rows of one pass at most, fewer than the entry's where the limit holds no more.
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
        self.device, self.threads = device, 1 if device == CUDA else threads
        cache: dict[str, Any] = {
            "num_layers": entry.num_layers,
            "num_kv_heads": entry.num_kv_heads,
            "capacity": capacity,
            "head_size": entry.head_size,
            "dtype": np.float16 if entry.precision == "fp16" else np.float32,
        }
        self.weight_bytes = weight_bytes(graph)  # the graph for chains has none of its own
        left = memory_left(self.weight_bytes, cache_bytes(**cache), vram_limit)
        opened = graph_to_open(graph, entry.chain_graph, device=device, trees=trees)
        self.session = open_session(opened, threads, device=device, vram_limit=left, trace=trace)
        self.for_chains = opened != graph
        check_bias(self.session, opened, for_chains=self.for_chains)
        _check_dimensions(self.session, entry)
        self.cache = KVCache(**cache, device=device)
        self.hidden_size = entry.hidden_size
        self.max_rows = entry.max_rows
        self._no_bias = np.zeros(with_reserve(self.max_rows) * capacity, dtype=np.float32)
        self._passes: dict[tuple[int, int, int], _Pass] = {}
        if vram_limit is not None and device != CPU:
            self.max_rows = rows_that_fit(entry.max_rows, 1, capacity, self._run_longest)

    @device_errors()
    def forward(
        self,
        hidden_states: FloatArray,
        token_ids: TokenArray,
        position_ids: TokenArray,
        *,
        num_scored: int,
        num_candidates: int,
        attention_bias: FloatArray | None = None,
    ) -> DraftRows:
        """Run S rows behind the cache's `length` slots; the length stays.

        Args:
            hidden_states: (S, E) float32, the target's or predicted ones.
            token_ids: (S,) int64, the token after each.
            position_ids: (S,) int64.
            num_scored: n, how many of the last rows are continued, 1 or more.
            num_candidates: k, continuations of each.
            attention_bias: as of `VerificationInput`; not for a graph for chains.
        """
        key = len(token_ids), num_scored, num_candidates
        step = self._passes.get(key) or _Pass(self, *key)
        if len(token_ids) <= KEPT_ROWS:
            self._passes[key] = step
        total = self.cache.length + len(token_ids)
        step.total[...] = total
        inputs = step.inputs
        inputs["hidden_states"][0] = hidden_states
        inputs["input_ids"][0] = token_ids
        inputs["position_ids"][0] = position_ids
        inputs["seqlens_k"][0] = total - 1
        if self.for_chains:
            assert attention_bias is None, "a graph for chains knows no trees"
        else:
            if attention_bias is None:
                attention_bias = self._no_bias[: len(token_ids) * total].reshape(1, 1, len(token_ids), total)
            step.bind({ATTENTION_BIAS: attention_bias})
        if self.device != CPU:
            step.bind(step.inputs)  # what is bound from another device is copied now
        self.session.run_with_iobinding(step.binding)
        return step.rows

    def _run_longest(self, num_rows: int) -> object:
        """Run rows that end in the last slot of the cache; the pass, which is not kept."""
        capacity = self.cache.capacity
        start = capacity - num_rows
        states = np.zeros((num_rows, self.hidden_size), dtype=np.float32)
        tokens = np.zeros(num_rows, dtype=np.int64)
        self.cache.length = start
        try:
            self.forward(states, tokens, np.arange(start, capacity), num_scored=1, num_candidates=1)
        finally:
            self.cache.length = 0
            step = self._passes.pop((num_rows, 1, 1), None)
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


class _Pass:
    """Bound inputs and outputs of passes of one size.

    What `inputs` holds must be bound anew before each pass on another device than the CPU, which copies it then.
    """

    def __init__(self, model: DraftModel, num_rows: int, num_scored: int, num_candidates: int) -> None:
        self._ort_value = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self.binding: Any = model.session.io_binding()
        self.total: NDArray[np.int32] = np.zeros((), dtype=np.int32)
        self._unchanging = {
            "scored_rows": np.arange(num_rows - num_scored, num_rows),
            "num_candidates": np.array([num_candidates]),
            "total_sequence_length": self.total,  # attention reads it where it lies, on every device
        }
        zeros = host_zeros(model.device)
        self.inputs: dict[str, NDArray[Any]] = {
            "hidden_states": zeros((1, num_rows, model.hidden_size), np.float32),
            "input_ids": zeros((1, num_rows), np.int64),
            "position_ids": zeros((1, num_rows), np.int64),
            "seqlens_k": zeros((1,), np.int32),
        }
        self.bind(self._unchanging)
        self.bind(self.inputs)
        num_states = num_scored if model.for_chains else num_rows
        states = zeros((1, num_states, model.hidden_size), np.float32)
        ids = zeros((1, num_scored, num_candidates), np.int64)
        log_probabilities = zeros((1, num_scored, num_candidates), np.float32)
        outputs = {"predicted_states": states, "candidate_ids": ids, "candidate_log_probabilities": log_probabilities}
        for name, buffer in outputs.items():
            self.binding.bind_ortvalue_output(name, self._ort_value(buffer))
        model.cache.bind(self.binding)
        self.rows = DraftRows(states[0, -num_scored:], ids[0], log_probabilities[0])

    def bind(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Bind arrays by the names of the graph's inputs."""
        for name, array in inputs.items():
            self.binding.bind_ortvalue_input(name, self._ort_value(array))


def _check_dimensions(session: Any, entry: DrafterEntry) -> None:
    shapes = {output.name: output.shape for output in session.get_outputs()}
    cache, states = (shapes.get(name, [None] * 4) for name in ("present.0.key", "predicted_states"))
    stated = (entry.num_layers, entry.num_kv_heads, entry.head_size, entry.hidden_size)
    found = ((len(shapes) - 3) // 2, cache[1], cache[3], states[-1])
    if stated != found:
        raise BundleError(
            f"the drafter's dimensions in the manifest must be those of its graph, (M, Hkv, D, E) = {found}, "
            f"got {stated}; attach the drafter again"
        )
