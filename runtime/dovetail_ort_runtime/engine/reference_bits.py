"""Whether the kernels give the bits here that they give on every other machine.

A small graph beside this file, made by `tests/runtime/reference_graph.py`, reads a chain and a tree. What it says is
known to the last bit, so that machines that never meet are held to the same results.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.engine.forward_inputs import NO_ANCESTOR, NativeInputs, ancestor_slots
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime

REFERENCE_BITS: Final = "af9eb48ca6a655f63d56271c83c4510a87b57602d0c400cc7d38aeddbbd40f3a"
_GRAPH: Final = Path(__file__).with_suffix(".onnx")
# Rows of the forwards over a chain: together more than the 512 positions that attention sums up without a break.
_CHAIN: Final = (64,) * 8 + (1, 7, 2)
# The row that each row of the tree follows; -1 follows the chain.
_TREE: Final = (-1, 0, 0, 1, 1, 2, 3, 6, 5, 0)


def bits_here(threads: int = 1) -> str:
    """SHA-256 of the logits of all forwards, in hexadecimal digits: `REFERENCE_BITS` on every machine.

    Args:
        threads: of a forward, 1 or more; they change nothing.

    Raises:
        UnavailableError: the kernels' library is missing.
    """
    reference = _Reference(threads)
    digest = hashlib.sha256()
    for num_rows in _CHAIN:
        digest.update(reference.read(num_rows).tobytes())
    digest.update(reference.read(len(_TREE), ancestor_slots(np.array(_TREE), reference.length)).tobytes())
    return digest.hexdigest()


class _Reference:
    """A session on the graph, and its caches."""

    def __init__(self, threads: int) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        kernels.register(options)
        self._session = onnxruntime.InferenceSession(str(_GRAPH), options, providers=["CPUExecutionProvider"])
        types = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
        self._caches: dict[str, NDArray[Any]] = {
            value.name: np.zeros(value.shape, dtype=types[value.type])
            for value in self._session.get_inputs()
            if value.name.startswith("past_key_values.")
        }
        self._vocabulary_size = int(self._session.get_outputs()[0].shape[-1])
        self._ort_value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.length = 0

    def read(self, num_rows: int, ancestors: TokenArray | None = None) -> FloatArray:
        """Logits (S, V) of rows behind those read before: a chain, or the tree of `ancestors` (S, A)."""
        rows = np.arange(num_rows)
        depths = rows if ancestors is None else (ancestors != NO_ANCESTOR).sum(axis=1)
        described = NativeInputs(num_rows, 0 if ancestors is None else ancestors.shape[1])
        described.fill(self.length, self.length, ancestors)
        inputs = {
            "input_ids": (7 * (self.length + rows) ** 2 + 3)[None] % self._vocabulary_size,
            "position_ids": (self.length + depths)[None],
            **described.fixed,
        }
        logits: FloatArray = np.empty((num_rows, self._vocabulary_size), dtype=np.float32)
        binding: Any = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, self._ort_value(array))
        for name, cache in self._caches.items():
            place = ("cpu", 0, cache.dtype.type, cache.shape, cache.ctypes.data)
            binding.bind_input(name, *place)
            binding.bind_output(name.replace("past_key_values", "present"), *place)
        binding.bind_ortvalue_output("logits", self._ort_value(logits[None]))
        self._session.run_with_iobinding(binding)
        self.length += num_rows
        return logits
