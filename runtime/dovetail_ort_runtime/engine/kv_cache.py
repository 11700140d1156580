"""Keys and values: allocated once, written in place by the graph, rewound by moving a length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.engine.cache_layout import PORTABLE_LAYOUT, CacheLayout
from dovetail_ort_runtime.engine.devices import CPU
from dovetail_ort_runtime.machine.cuda_runtime import DeviceMemory
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime
from dovetail_ort_runtime.machine.process_memory import use_large_pages, zeros

# From so many tokens on, a forward reads enough of the cache for large pages to pay. Gaining them can take 0.5 s.
_LONG: Final = 2048
CacheType = type[np.float32 | np.float16 | np.int8]
_CACHE_TYPES: Final[dict[str, CacheType]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}


def cache_type(session: Any) -> CacheType:
    """What a graph reads its cache in."""
    past = next(value for value in session.get_inputs() if value.name.startswith("past_key_values."))
    return _CACHE_TYPES[past.type]


def cache_bytes(
    num_layers: int,
    num_kv_heads: int,
    capacity: int,
    head_size: int,
    dtype: CacheType,
    layout: CacheLayout = PORTABLE_LAYOUT,
) -> int:
    """Size of a cache's buffers."""
    shapes = layout.shapes(num_kv_heads, layout.num_slots(capacity), head_size)
    return num_layers * sum(map(math.prod, shapes)) * np.dtype(dtype).itemsize


class KVCache:
    """Keys and values of one sequence.

    Every buffer is bound as past and as present of its block, and the graph writes the new rows in place, from slot
    `length` onwards. What is past `length` the next forward overwrites.

    Args:
        num_layers: number of blocks.
        num_kv_heads: Hkv.
        capacity: number of slots.
        head_size: D.
        dtype: of keys and values.
        layout: of both; a native one may allocate some slots more.
        device: `cpu` or `cuda`.
        first_layer: number of the first block in the graph's names.
        front: the cache of the blocks before it, which keeps and forgets what this one does.

    Attributes:
        length: number of slots that hold kept tokens.
        buffers: key 0, value 0, key 1, ...; none where they lie on another device than the CPU.
        num_bytes: of all buffers, touched or not.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        capacity: int,
        head_size: int,
        dtype: CacheType = np.float32,
        layout: CacheLayout = PORTABLE_LAYOUT,
        device: str = CPU,
        first_layer: int = 0,
        front: KVCache | None = None,
    ) -> None:
        self.capacity = capacity
        self.length = 0
        self.num_bytes = cache_bytes(num_layers, num_kv_heads, capacity, head_size, dtype, layout)
        self._layout, self._dtype, self._device = layout, dtype, device
        self._num_slots = layout.num_slots(capacity)
        self._shapes = layout.shapes(num_kv_heads, self._num_slots, head_size)
        self._front = front
        layers = range(first_layer, first_layer + num_layers)
        self._names = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
        self.buffers: list[NDArray[Any]] = []
        self._has_large_pages = False
        self._all_blocks: tuple[NDArray[Any], ...] = ()
        self._memory: DeviceMemory | None = None
        if device == CPU:
            keys, values = (zeros((num_layers, *shape), dtype) for shape in self._shapes)
            self._all_blocks = keys, values
            self.buffers = [buffer for block in zip(keys, values, strict=True) for buffer in block]
            ort_value = import_onnxruntime().OrtValue.ortvalue_from_numpy
            self._values = [ort_value(buffer) for buffer in self.buffers]
        else:
            self._memory = DeviceMemory(self.num_bytes)
            size = self.num_bytes // (2 * num_layers)
            self._addresses = [self._memory.address + index * size for index in range(2 * num_layers)]

    def bind(self, binding: Any) -> None:
        """Bind every buffer as past and as present in an IOBinding, which must not outlive this cache."""
        for index, name in enumerate(self._names):
            if self.buffers:
                binding.bind_ortvalue_input(f"past_key_values.{name}", self._values[index])
                binding.bind_ortvalue_output(f"present.{name}", self._values[index])
            else:
                place = (self._device, 0, self._dtype, self._shapes[index % 2], self._addresses[index])
                binding.bind_input(f"past_key_values.{name}", *place)
                binding.bind_output(f"present.{name}", *place)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep some rows of the last forward, in increasing order, which wrote them from slot `length` on.

        Example, length 10: `keep([0, 1, 4])` leaves slots 10 and 11, moves slot 14 to 12, and the length is 13.
        """
        if self._front is not None:
            self._front.keep(rows)
        for place, row in enumerate(rows):
            if place != row:
                self._move(self.length + row, self.length + place)
        self.length += len(rows)
        if self.length >= _LONG and not self._has_large_pages and self.buffers:
            self._has_large_pages = True
            for blocks in self._all_blocks:
                use_large_pages(blocks)

    def _move(self, slot: int, new_slot: int) -> None:
        assert self.buffers, "rows are moved on the CPU only"
        places = zip(self._layout.places(slot), self._layout.places(new_slot), strict=True)
        for blocks, (old, new) in zip(self._all_blocks, places, strict=True):
            blocks[(slice(None), *new)] = blocks[(slice(None), *old)]

    def fill(self, length: int) -> None:
        """Keep so many slots that hold no text: what a forward costs does not depend on what it reads."""
        for blocks in self._all_blocks:
            blocks[:, :, :, : -(-blocks.shape[3] * length // self._num_slots)] = 1
        self.length = length
        if self._front is not None:
            self._front.fill(length)

    def rewind(self, length: int) -> None:
        """Forget every slot from `length` on."""
        self.length = min(self.length, length)
        if self._front is not None:
            self._front.rewind(length)
