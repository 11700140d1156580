"""Embedding and first blocks of a target that was cut in two."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.environment import import_onnxruntime
from dovetail_ort_runtime.errors import BundleError
from dovetail_ort_runtime.kv_cache import KVCache, cache_bytes
from dovetail_ort_runtime.manifest import TargetEntry
from dovetail_ort_runtime.session import SessionReport, memory_left, open_session, report_session, weight_bytes


class Front:
    """A session on the front graph and the cache of its blocks; both are in fp16.

    Args:
        graph: path of the ONNX file.
        entry: of the whole target.
        capacity: slots of the cache.
        threads: as of `open_session`.
        device: `cpu` or `cuda`.
        vram_limit: bytes that graph and cache may take on a GPU.

    Attributes:
        cache: keys and values of these blocks.
        block_states: (max_rows, E) float32, of the last block; a pass fills its first rows.
    """

    def __init__(
        self, graph: Path, entry: TargetEntry, *, capacity: int, threads: int, device: str, vram_limit: int | None
    ) -> None:
        self.device, self._threads = device, threads
        self._weight_bytes = weight_bytes(graph)
        cache: dict[str, Any] = {
            "num_layers": entry.front_layers,
            "num_kv_heads": entry.num_kv_heads,
            "capacity": capacity,
            "head_size": entry.head_size,
            "dtype": np.float16,
        }
        left = memory_left(self._weight_bytes, cache_bytes(**cache), vram_limit)
        self.session = open_session(graph, threads, device=device, vram_limit=left)
        found = sum(output.name.startswith("present.") for output in self.session.get_outputs()) // 2
        if found != entry.front_layers:
            raise BundleError(
                f"front_layers in the manifest must be the blocks of {graph.name}, {found}, got {entry.front_layers}; "
                "export the bundle again"
            )
        self.cache = KVCache(**cache, device=device)
        self.block_states: FloatArray = np.empty((entry.max_rows, entry.hidden_size), dtype=np.float32)
        self._ort_value = import_onnxruntime().OrtValue.ortvalue_from_numpy  # a look-up takes longer than a binding
        self._bindings: dict[int, Any] = {}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Run rows behind the kept ones, on the target's inputs by name: token ids, positions, bias and lengths."""
        num_rows = inputs["input_ids"].shape[1]
        if num_rows not in self._bindings:
            self._bindings[num_rows] = self._bound(num_rows)
        binding = self._bindings[num_rows]
        for name, array in inputs.items():  # what is bound from another device is copied now
            binding.bind_ortvalue_input(name, self._ort_value(array))
        self.session.run_with_iobinding(binding)

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

    def _bound(self, num_rows: int) -> Any:
        binding = self.session.io_binding()
        states = self.block_states[None, :num_rows]
        binding.bind_ortvalue_output("block_states", self._ort_value(states))
        self.cache.bind(binding)
        return binding
