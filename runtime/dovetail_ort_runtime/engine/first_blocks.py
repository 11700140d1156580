"""Embedding and first blocks of a target that was cut in two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
from dovetail_ort_runtime.engine.chain_graph import check_bias, graph_to_open
from dovetail_ort_runtime.engine.devices import CPU, HostBuffers
from dovetail_ort_runtime.engine.forward_inputs import PortableInputs
from dovetail_ort_runtime.engine.kv_cache import KVCache, cache_bytes
from dovetail_ort_runtime.engine.row_limit import rows_that_fit, with_reserve
from dovetail_ort_runtime.engine.session import (
    SessionReport,
    device_errors,
    memory_left,
    open_session,
    report_session,
    weight_bytes,
)
from dovetail_ort_runtime.errors import BundleError
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime

_LEAST_ROWS: Final = 8  # a load looks with as many whether rows stand alone


class Front:
    """A session on the front graph and the cache of its blocks; both are in fp16.

    First paths alone are kept behind a front, so CUDA takes the graph for chains, where there is one.

    Args:
        graph: path of the ONNX file.
        entry: of the whole target.
        capacity: slots of the cache.
        threads: as of `open_session`.
        device: `cpu` or `cuda`.
        vram_limit: bytes that graph, cache and forwards may take on a GPU.

    Attributes:
        session: of ONNX Runtime.
        ort_value: wraps an array.
        for_chains: whether the graph knows no attention bias.
        cache: keys and values of these blocks.
        buffers: what forwards read and write, but for the cache; also of the blocks behind these.
        max_rows: rows of one forward at most, fewer than the entry's where the limit holds no more.
        block_states: (max_rows or more, E) float32, of the last block; a forward fills its first rows.
    """

    def __init__(
        self,
        graph: Path,
        entry: TargetEntry,
        *,
        capacity: int,
        threads: int,
        device: str,
        vram_limit: int | None,
    ) -> None:
        self.device, self._threads = device, threads
        self._weight_bytes = weight_bytes(graph)  # the graph for chains has none of its own
        cache: dict[str, Any] = {
            "num_layers": entry.front_layers,
            "num_kv_heads": entry.num_kv_heads,
            "capacity": capacity,
            "head_size": entry.head_size,
            "dtype": np.float16,
        }
        left = memory_left(self._weight_bytes, cache_bytes(**cache), vram_limit)
        opened = graph_to_open(graph, entry.front_chain_graph, device=device, trees=False)
        self.session = open_session(opened, threads, device=device, vram_limit=left)
        self.for_chains = opened != graph
        check_bias(self.session, opened, for_chains=self.for_chains)
        found = sum(output.name.startswith("present.") for output in self.session.get_outputs()) // 2
        if found != entry.front_layers:
            raise BundleError(
                f"front_layers in the manifest must be the blocks of {opened.name}, {found}, got {entry.front_layers}; "
                "export the bundle again"
            )
        self.cache = KVCache(**cache, device=device)
        self.buffers = HostBuffers(device)
        states_shape = (with_reserve(entry.max_rows), entry.hidden_size)
        self.block_states: FloatArray = self.buffers.array("block_states", states_shape, np.float32)
        self.ort_value = import_onnxruntime().OrtValue.ortvalue_from_numpy  # a look-up takes longer than a binding
        self.max_rows = entry.max_rows
        if vram_limit is not None and device != CPU:
            self.max_rows = rows_that_fit(entry.max_rows, _LEAST_ROWS, capacity, self._run_longest)

    @device_errors()
    def bind(self, tokens: Mapping[str, NDArray[Any]], inputs: PortableInputs) -> FirstBlocksForward:
        """Forwards on token ids and positions, by the names of the target's inputs, which are written anew for each."""
        return FirstBlocksForward(self, tokens, inputs)

    def _run_longest(self, num_rows: int) -> FirstBlocksForward:
        """Run rows that end in the last slot of the cache."""
        first = self.cache.capacity - num_rows
        no_bias = np.zeros(num_rows * self.cache.capacity, dtype=np.float32)
        tokens = {
            "input_ids": np.zeros((1, num_rows), dtype=np.int64),
            "position_ids": np.arange(first, self.cache.capacity)[None],
        }
        step = self.bind(tokens, PortableInputs(num_rows, no_bias, self.buffers))
        step.run(first, None)
        return step

    def report(self) -> SessionReport:
        """Where it runs."""
        return report_session(
            self.session,
            name="target, first blocks",
            device=self.device,
            threads=self._threads,
            weight_bytes=self._weight_bytes,
            cache_bytes=self.cache.num_bytes,
        )


class FirstBlocksForward:
    """Bound inputs and outputs of forwards of one size."""

    def __init__(self, front: Front, tokens: Mapping[str, NDArray[Any]], inputs: PortableInputs) -> None:
        self._front, self._inputs = front, inputs
        self._binding = front.session.io_binding()
        fixed = {**tokens, **inputs.fixed}
        self._bind(fixed)
        # What another device copies when it is bound; attention reads the total length where it lies.
        copied = fixed.keys() - {"total_sequence_length"} if front.device != CPU else ()
        self._copied = {name: fixed[name] for name in copied}
        num_rows = tokens["input_ids"].shape[1]
        self._binding.bind_ortvalue_output("block_states", front.ort_value(front.block_states[None, :num_rows]))
        front.cache.bind(self._binding)

    @device_errors()
    def run(self, length: int, ancestors: TokenArray | None) -> None:
        """Run the rows behind `length` kept ones, a tree or, without ancestors, a chain."""
        self._inputs.fill(length, length, ancestors)
        self._bind(self._copied)
        if self._front.for_chains:
            assert ancestors is None, "a graph for chains knows no trees"
        else:
            self._bind(self._inputs.changing)
        self._front.session.run_with_iobinding(self._binding)

    def _bind(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, self._front.ort_value(array))
