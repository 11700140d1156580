"""The target model: one pass over a few new rows, hidden states of each and the logits that are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.chain_graph import ATTENTION_BIAS
from dovetail_ort_runtime.devices import CPU, host_zeros
from dovetail_ort_runtime.environment import import_onnxruntime, usable_cores
from dovetail_ort_runtime.errors import BundleError, InputError
from dovetail_ort_runtime.front import Front
from dovetail_ort_runtime.kv_cache import KVCache, cache_type
from dovetail_ort_runtime.manifest import TargetEntry
from dovetail_ort_runtime.row_limit import KEPT_ROWS
from dovetail_ort_runtime.session import SessionReport, open_session, report_session, weight_bytes
from dovetail_ort_runtime.verification_input import VerificationInput

EXACT_ROWS = 2


@dataclass(frozen=True, slots=True, eq=False)
class TargetRows:
    """What one pass gave; views that the next pass overwrites.

    Attributes:
        logits: (n, V) float32, of the rows that were asked for.
        hidden_states: (S, E) float32, after the final norm.
    """

    logits: FloatArray
    hidden_states: FloatArray


class Target:
    """A session on the target's graph and the cache of one sequence.

    One-row and many-row calls of an INT8 product take different kernels, whose sums round differently. So neither an
    exact pass nor its head has one row: it is padded to two, and the second row's result is dropped.

    Args:
        graph: path of the ONNX file.
        entry: its dimensions.
        max_context: slots of the cache, at most the bundle's maximum (the default).
        threads: of one pass; the usable physical cores by default.
        front_device: of the first blocks of a target that was cut, `cpu` or `cuda`; the others are on the CPU.
        vram_limit: bytes that they may take on a GPU.
        trees: as of `Front`.
        trace: as of `open_session`, for the blocks on the CPU.

    Attributes:
        cache: keys and values of the kept tokens.
        chooses_rows: whether the graph computes the logits of chosen rows only.
    """

    def __init__(
        self,
        graph: Path,
        entry: TargetEntry,
        *,
        max_context: int | None = None,
        threads: int | None = None,
        front_device: str = CPU,
        vram_limit: int | None = None,
        trees: bool = True,
        trace: Path | None = None,
    ) -> None:
        capacity = entry.max_context if max_context is None else max_context
        if not 2 <= capacity <= entry.max_context:
            raise InputError(f"max_context must be between 2 and the bundle's {entry.max_context}, got {capacity}")
        self.max_rows = entry.max_rows
        self.vocabulary_size = entry.vocabulary_size
        self.hidden_size = entry.hidden_size
        self.threads = usable_cores() if threads is None else threads
        if self.threads < 1:
            raise InputError(f"threads must be 1 or more, got {self.threads}")
        self.front: Front | None = None
        if entry.front_graph is not None:
            self.front = Front(
                graph.with_name(entry.front_graph),
                entry,
                capacity=capacity,
                threads=self.threads,
                device=front_device,
                vram_limit=vram_limit,
                trees=trees,
            )
            self.max_rows = self.front.max_rows
        self.weight_bytes = weight_bytes(graph)
        self.session = open_session(graph, self.threads, trace=trace)
        _check_dimensions(self.session, entry)
        self.cache = KVCache(
            num_layers=entry.num_layers - entry.front_layers,
            num_kv_heads=entry.num_kv_heads,
            capacity=capacity,
            head_size=entry.head_size,
            dtype=cache_type(self.session),
            first_layer=entry.front_layers,
            front=None if self.front is None else self.front.cache,
        )
        self.logits = np.empty((self.max_rows, entry.vocabulary_size), dtype=np.float32)
        self.hidden_states = np.empty((self.max_rows, entry.hidden_size), dtype=np.float32)
        self._no_bias = np.zeros(self.max_rows * capacity, dtype=np.float32)
        self.chooses_rows = any(value.name == "scored_rows" for value in self.session.get_inputs())
        self._passes: dict[tuple[int, int], _Pass] = {}

    def forward(self, rows: VerificationInput, *, exact: bool = True, num_scored: int | None = None) -> TargetRows:
        """Run the rows behind the cache's kept tokens; its length stays.

        Args:
            rows: 1 to `max_rows`, for which the cache has room.
            exact: whether a single row takes the kernel of many.
            num_scored: how many of the last rows need logits, 1 or more; all if None.
        """
        num_rows = len(rows.token_ids)
        num_scored = num_rows if num_scored is None else num_scored
        least = EXACT_ROWS if exact else 1
        padded = max(num_rows, least)
        scored = max(num_scored, least) if self.chooses_rows else padded
        first_scored = max(num_rows - scored, 0)
        total = self.cache.length + padded
        key = padded, scored
        step = self._passes.get(key) or _Pass(self, *key)
        if padded <= KEPT_ROWS:
            self._passes[key] = step
        step.fill(rows, total, first_scored)
        bias = rows.attention_bias
        if bias is None:
            bias = self._no_bias[: padded * total].reshape(1, 1, padded, total)
        step.binding.bind_ortvalue_input(ATTENTION_BIAS, step.ort_value(bias))
        if step.front is not None:
            step.front.run(bias, tree=rows.attention_bias is not None)
        self.session.run_with_iobinding(step.binding)
        end = num_rows - first_scored
        return TargetRows(self.logits[end - num_scored : end], self.hidden_states[:num_rows])

    def reports(self) -> tuple[SessionReport, ...]:
        """Where it runs."""
        rest = report_session(
            self.session,
            name="target",
            device=CPU,
            threads=self.threads,
            weight_bytes=self.weight_bytes,
            cache_bytes=self.cache.num_bytes,
        )
        return (rest,) if self.front is None else (self.front.report(), rest)


class _Pass:
    """Bound inputs and outputs of passes of one size; only the bias changes its shape."""

    def __init__(self, target: Target, num_rows: int, num_scored: int) -> None:
        self.ort_value = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self.binding: Any = target.session.io_binding()
        self.scored_rows: TokenArray = np.zeros(num_scored, dtype=np.int64)
        zeros = host_zeros(CPU if target.front is None else target.front.device)
        self.inputs: dict[str, NDArray[Any]] = {
            "input_ids": zeros((1, num_rows), np.int64),
            "position_ids": zeros((1, num_rows), np.int64),
            "seqlens_k": zeros((1,), np.int32),
            "total_sequence_length": zeros((), np.int32),
        }
        for name, array in self.inputs.items():
            self.binding.bind_ortvalue_input(name, self.ort_value(array))
        if target.chooses_rows:
            self.binding.bind_ortvalue_input("scored_rows", self.ort_value(self.scored_rows))
        self.front = None if target.front is None else target.front.bind(self.inputs)
        if target.front is not None:
            states = target.front.block_states[None, :num_rows]
            self.binding.bind_ortvalue_input("block_states", self.ort_value(states))
        self.binding.bind_ortvalue_output("logits", self.ort_value(target.logits[None, :num_scored]))
        self.binding.bind_ortvalue_output("hidden_states", self.ort_value(target.hidden_states[None, :num_rows]))
        target.cache.bind(self.binding)

    def fill(self, rows: VerificationInput, total: int, first_scored: int) -> None:
        """Write what the graph reads but for the bias; padding, which `total` includes, repeats the last position."""
        num_rows, inputs = len(rows.token_ids), self.inputs
        inputs["input_ids"][0, :num_rows] = rows.token_ids
        inputs["position_ids"][0, :num_rows] = rows.position_ids
        inputs["position_ids"][0, num_rows:] = rows.position_ids[-1]
        inputs["seqlens_k"][0] = total - 1
        inputs["total_sequence_length"][...] = total
        self.scored_rows[:] = np.arange(first_scored, first_scored + len(self.scored_rows))


def _check_dimensions(session: Any, entry: TargetEntry) -> None:
    shapes = {output.name: output.shape for output in session.get_outputs()}
    first = f"present.{entry.front_layers}.key"
    cache, logits, states = (shapes.get(name, [None] * 4) for name in (first, "logits", "hidden_states"))
    stated = (entry.num_layers, entry.num_kv_heads, entry.head_size, entry.vocabulary_size, entry.hidden_size)
    found = (len(shapes) // 2 - 1 + entry.front_layers, cache[1], cache[3], logits[-1], states[-1])
    if stated != found:
        raise BundleError(
            f"the dimensions in the manifest must be those of {entry.graph}, (L, Hkv, D, V, E) = {found}, "
            f"got {stated}; export the bundle again"
        )
