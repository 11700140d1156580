"""The target model: one forward over a few new rows, hidden states of each and the logits that are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
from dovetail_ort_runtime.engine.cache_layout import NATIVE_LAYOUT, PORTABLE_LAYOUT
from dovetail_ort_runtime.engine.devices import CPU, HostBuffers
from dovetail_ort_runtime.engine.first_blocks import FirstBlocksForward, Front
from dovetail_ort_runtime.engine.forward_inputs import ForwardInputs, NativeInputs, PortableInputs, ancestor_slots
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.kv_cache import KVCache, cache_type
from dovetail_ort_runtime.engine.row_limit import KEPT_ROWS
from dovetail_ort_runtime.engine.session import SessionReport, open_session, report_session, weight_bytes
from dovetail_ort_runtime.engine.target_graphs import TargetGraphs, graphs_to_load
from dovetail_ort_runtime.errors import BundleError, InputError
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime
from dovetail_ort_runtime.machine.processor import usable_cores

# Of a forward of a portable graph, and of its head: `MatMulNBits` rounds a single row differently.
_TWO_ROWS: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class TargetOutput:
    """What one forward gave; views that the next forward overwrites.

    Attributes:
        logits: (n, V) float32, of the rows that were asked for.
        hidden_states: (S, E) float32, after the final norm.
    """

    logits: FloatArray
    hidden_states: FloatArray


class Target:
    """A session on the target's graph and the cache of one sequence.

    A native graph gives a row the same bits whatever is beside it. A portable one has other kernels for a single row
    than for several, whose sums round differently. So neither its forwards nor its head have one row: it is padded to
    two, and the second row's result is dropped.

    Args:
        graph: path of the ONNX file.
        entry: its dimensions.
        max_context: slots of the cache, at most the bundle's maximum (the default).
        threads: of one forward; the usable physical cores by default.
        front_device: of the first blocks of a target that was cut, `cpu` or `cuda`; the others are on the CPU.
        vram_limit: bytes that they may take on a GPU.
        trace: as of `open_session`, for the blocks on the CPU.

    Raises:
        InputError: an argument is out of its bounds.
        BundleError: the graph is not the one that the entry describes.
        UnavailableError: the graph is native, and the library of operators is missing.

    Attributes:
        cache: keys and values of the kept tokens.
        ort_value: wraps an array for ONNX Runtime.
        buffers: what forwards read, but for the cache.
        chooses_rows: whether the graph computes the logits of chosen rows only.
        is_native: whether all blocks run in native operators.
        least_rows: rows of a forward at the least, 1 or 2; fewer are padded.
        keeps_branches: whether rows of a tree that are no first path may be kept: they have the bits of a chain.
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
        graphs = graphs_to_load(graph, entry, front_device)
        self.front: Front | None = None
        if graphs.front is not None:
            self.front = Front(
                graphs.front,
                entry,
                capacity=capacity,
                threads=self.threads,
                device=front_device,
                vram_limit=vram_limit,
            )
            self.max_rows = self.front.max_rows
        self.is_native = graphs.is_native and self.front is None
        self.least_rows = 1 if self.is_native else _TWO_ROWS
        self.keeps_branches = self.is_native
        self._graph = graphs.graph
        self.session = open_session(graphs.graph, self.threads, trace=trace)
        _check_dimensions(self.session, entry, graphs)
        self.cache = KVCache(
            num_layers=entry.num_layers - graphs.front_layers,
            num_kv_heads=entry.num_kv_heads,
            capacity=capacity,
            head_size=entry.head_size,
            dtype=cache_type(self.session),
            layout=NATIVE_LAYOUT if graphs.is_native else PORTABLE_LAYOUT,
            first_layer=graphs.front_layers,
            front=None if self.front is None else self.front.cache,
        )
        self.logits = np.empty((self.max_rows, entry.vocabulary_size), dtype=np.float32)
        self.hidden_states = np.empty((self.max_rows, entry.hidden_size), dtype=np.float32)
        self.chooses_rows = any(value.name == "scored_rows" for value in self.session.get_inputs())
        self._has_native_blocks = graphs.is_native
        self._no_bias = np.zeros(0 if self.is_native else self.max_rows * capacity, dtype=np.float32)
        self.ort_value = import_onnxruntime().OrtValue.ortvalue_from_numpy  # a look-up takes longer than a binding
        self.buffers = HostBuffers(CPU) if self.front is None else self.front.buffers
        self._forwards: dict[tuple[int, int, int], _Forward] = {}

    def forward(self, rows: ForwardRows, *, num_scored: int | None = None) -> TargetOutput:
        """Run the rows behind the cache's kept tokens; its length stays.

        Args:
            rows: 1 to `max_rows`, for which the cache has room.
            num_scored: how many of the last rows need logits, 1 or more; all if None.
        """
        num_rows = len(rows.token_ids)
        num_scored = num_rows if num_scored is None else num_scored
        padded = max(num_rows, self.least_rows)
        scored = max(num_scored, self.least_rows) if self.chooses_rows else padded
        length = self.cache.length
        ancestors = None if rows.parents is None else ancestor_slots(rows.parents, length)
        step = self._bound(padded, scored, 0 if ancestors is None else ancestors.shape[1])
        first_scored = max(num_rows - scored, 0)
        step.run(rows, length, ancestors, first_scored)
        end = num_rows - first_scored
        return TargetOutput(self.logits[end - num_scored : end], self.hidden_states[:num_rows])

    def inputs(self, num_rows: int, num_ancestors: int) -> ForwardInputs:
        """For forwards of the blocks on the CPU over so many rows with so many ancestors each."""
        if self._has_native_blocks:
            return NativeInputs(num_rows, num_ancestors)
        return self.portable_inputs(num_rows)

    def portable_inputs(self, num_rows: int) -> PortableInputs:
        """For forwards of a front over so many rows."""
        return PortableInputs(num_rows, self._no_bias, self.buffers)

    def _bound(self, num_rows: int, num_scored: int, num_ancestors: int) -> _Forward:
        key = num_rows, num_scored, num_ancestors
        step = self._forwards.get(key)
        if step is None:
            step = _Forward(self, *key)
            if num_rows <= KEPT_ROWS:
                self._forwards[key] = step
        return step

    @cached_property
    def weight_bytes(self) -> int:
        """Size of the graph for the CPU and its weights."""
        return weight_bytes(self._graph)

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


class _Forward:
    """Bound inputs and outputs of forwards of one size."""

    def __init__(self, target: Target, num_rows: int, num_scored: int, num_ancestors: int) -> None:
        self._ort_value = target.ort_value
        self._session = target.session
        self._binding: Any = target.session.io_binding()
        self._token_ids: TokenArray = target.buffers.array("input_ids", (1, num_rows), np.int64)
        self._position_ids: TokenArray = target.buffers.array("position_ids", (1, num_rows), np.int64)
        self._scored_rows: TokenArray = np.zeros(num_scored, dtype=np.int64)
        self._steps = np.arange(num_scored)
        self._inputs = target.inputs(num_rows, num_ancestors)
        tokens = {"input_ids": self._token_ids, "position_ids": self._position_ids}
        self._bind({**tokens, **self._inputs.fixed})
        if target.chooses_rows:
            self._bind({"scored_rows": self._scored_rows})
        self._front: FirstBlocksForward | None = None
        if target.front is not None:
            portable = self._inputs if isinstance(self._inputs, PortableInputs) else target.portable_inputs(num_rows)
            self._front = target.front.bind(tokens, portable)
            self._bind({"block_states": target.front.block_states[None, :num_rows]})
        self._binding.bind_ortvalue_output("logits", self._ort_value(target.logits[None, :num_scored]))
        self._binding.bind_ortvalue_output("hidden_states", self._ort_value(target.hidden_states[None, :num_rows]))
        target.cache.bind(self._binding)

    def run(self, rows: ForwardRows, length: int, ancestors: TokenArray | None, first_scored: int) -> None:
        """Run the rows behind `length` kept ones; padding repeats the last position."""
        num_rows = len(rows.token_ids)
        self._token_ids[0, :num_rows] = rows.token_ids
        self._position_ids[0, :num_rows] = rows.position_ids
        if num_rows < self._position_ids.shape[1]:
            self._position_ids[0, num_rows:] = rows.position_ids[-1]
        np.add(self._steps, first_scored, out=self._scored_rows)
        self._inputs.fill(length, length, ancestors)
        self._bind(self._inputs.changing)
        if self._front is not None:
            self._front.run(length, ancestors)
        self._session.run_with_iobinding(self._binding)

    def _bind(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, self._ort_value(array))


def _check_dimensions(session: Any, entry: TargetEntry, graphs: TargetGraphs) -> None:
    shapes = {output.name: output.shape for output in session.get_outputs()}
    first = graphs.front_layers
    names = (f"present.{first}.value", "logits", "hidden_states")
    cache, logits, states = (shapes.get(name, [None] * 4) for name in names)
    stated = (entry.num_layers, entry.num_kv_heads, entry.head_size, entry.vocabulary_size, entry.hidden_size)
    found = (len(shapes) // 2 - 1 + first, cache[1], cache[3], logits[-1], states[-1])
    if stated != found:
        raise BundleError(
            f"the dimensions in the manifest must be those of {graphs.graph.name}, (L, Hkv, D, V, E) = {found}, "
            f"got {stated}; export the bundle again"
        )
