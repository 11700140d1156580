"""Whether the kernels give the bits here that they give on every other machine.

A small graph beside this file reads a chain and a tree; `tests/runtime/reference_graph.py` makes it. The bits of its
logits are written down here, so each machine can compare its own with those of all others.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_names import INPUT_IDS, KEY, LOGITS, POSITION_IDS, is_past, past
from dovetail_ort_runtime.engine.cache_memory import CACHE_TYPES, NATIVE_LAYOUT, CacheMemory, CacheShape
from dovetail_ort_runtime.engine.forward_inputs import NO_ANCESTOR, NativeInputs, ancestor_slots
from dovetail_ort_runtime.engine.graph_runner import BoundForward
from dovetail_ort_runtime.engine.ort_protocols import Session, ValueInfo
from dovetail_ort_runtime.engine.session import open_session

REFERENCE_BITS: Final = "af9eb48ca6a655f63d56271c83c4510a87b57602d0c400cc7d38aeddbbd40f3a"
_GRAPH: Final = Path(__file__).with_suffix(".onnx")
# Rows of the forwards over a chain: together more than the 512 positions that attention sums up without a break.
_CHAIN: Final = (64,) * 8 + (1, 7, 2)
# The row that each row of the tree follows; -1 follows the chain.
_TREE: Final = (-1, 0, 0, 1, 1, 2, 3, 6, 5, 0)


def bits_here(threads: int = 1) -> str:
    """SHA-256 of the logits of all forwards, in hexadecimal digits; `REFERENCE_BITS` on every machine.

    Args:
        threads: number of threads that a forward uses, 1 or more; the result does not depend on it.

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
    """A session on the graph, and its caches, whose number types differ from block to block."""

    def __init__(self, threads: int) -> None:
        self._session = open_session(_GRAPH, threads)
        self._caches = [_block_cache(keys, layer) for layer, keys in enumerate(_key_inputs(self._session))]
        self._vocabulary_size = int(self._session.get_outputs()[0].shape[-1])
        self.length = 0

    def read(self, num_rows: int, ancestors: TokenArray | None = None) -> FloatArray:
        """Logits (S, V) of rows after those read before: a chain, or the tree of `ancestors` (S, A)."""
        rows = np.arange(num_rows)
        depths = rows if ancestors is None else (ancestors != NO_ANCESTOR).sum(axis=1)
        inputs = NativeInputs(num_rows, 0 if ancestors is None else ancestors.shape[1])
        inputs.fill(self.length, self.length, ancestors)
        token_ids = (7 * (self.length + rows) ** 2 + 3) % self._vocabulary_size
        logits: FloatArray = np.empty((num_rows, self._vocabulary_size), dtype=np.float32)
        forward = BoundForward(
            self._session,
            written={INPUT_IDS: token_ids[None], POSITION_IDS: (self.length + depths)[None], **inputs.fixed},
            outputs={LOGITS: logits[None]},
        )
        for cache in self._caches:
            cache.bind(forward.binding)
        forward.execute({})
        self.length += num_rows
        return logits


def _key_inputs(session: Session) -> list[ValueInfo]:
    """The inputs of keys, in the order of the blocks."""
    inputs = {value.name: value for value in session.get_inputs()}
    num_layers = sum(map(is_past, inputs)) // 2
    return [inputs[past(layer, KEY)] for layer in range(num_layers)]


def _block_cache(keys: ValueInfo, layer: int) -> CacheMemory:
    """The cache of one block, whose keys are (1, Hkv, M / 64, D, 64)."""
    _, num_kv_heads, num_cache_blocks, head_size, slots = keys.shape
    shape = CacheShape(
        num_layers=1,
        num_kv_heads=num_kv_heads,
        capacity=num_cache_blocks * slots,
        head_size=head_size,
        dtype=CACHE_TYPES[keys.type],
        layout=NATIVE_LAYOUT,
    )
    return CacheMemory(shape, first_layer=layer)
