"""Memory of keys and values: how it is laid out, how large it is, and how it is bound to a graph.

It knows no text: which slots hold kept tokens is known by `KVCache`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import Shape
from dovetail_ort_runtime.bundle.graph_names import KEY, VALUE, is_past, past, present
from dovetail_ort_runtime.engine.devices import CPU
from dovetail_ort_runtime.engine.ort_protocols import Binding, Session, ort_value_of
from dovetail_ort_runtime.kernels import CACHE_BLOCK
from dovetail_ort_runtime.machine.cuda_runtime import DeviceMemory
from dovetail_ort_runtime.machine.process_memory import zeros

SlotIndex = tuple[int | slice, ...]
CacheType = type[np.float32 | np.float16 | np.int8]
_ALL: Final = slice(None)
CACHE_TYPES: Final[dict[str, CacheType]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}


class CacheLayout(Protocol):
    """How the slots of one block lie in its two buffers."""

    def num_slots(self, capacity: int) -> int:
        """Number of slots that are allocated where `capacity` slots are asked for."""

    def shapes(self, num_kv_heads: int, num_slots: int, head_size: int) -> tuple[Shape, Shape]:
        """Shape of one sequence's keys and of its values, without the batch axis."""

    def places(self, slot: int) -> tuple[SlotIndex, SlotIndex]:
        """Index of a slot's keys and of its values in the buffers; each gives (B, Hkv, D)."""


class PortableLayout:
    """Keys and values (B, Hkv, M, D), as `GroupQueryAttention` reads them."""

    def num_slots(self, capacity: int) -> int:
        """The number that is asked for."""
        return capacity

    def shapes(self, num_kv_heads: int, num_slots: int, head_size: int) -> tuple[Shape, Shape]:
        """Keys and values have the same shape."""
        shape = (num_kv_heads, num_slots, head_size)
        return shape, shape

    def places(self, slot: int) -> tuple[SlotIndex, SlotIndex]:
        """Keys and values have the same place."""
        place = (_ALL, _ALL, slot)
        return place, place


class NativeLayout:
    """Keys (B, Hkv, M / 64, D, 64) and values (B, Hkv, M, D), as the native `Attention` reads them.

    The keys of 64 slots lie side by side.
    """

    def num_slots(self, capacity: int) -> int:
        """Whole blocks of 64 slots: for 100 slots, 128."""
        return -(-capacity // CACHE_BLOCK) * CACHE_BLOCK

    def shapes(self, num_kv_heads: int, num_slots: int, head_size: int) -> tuple[Shape, Shape]:
        """Keys have one axis more than values."""
        keys = (num_kv_heads, num_slots // CACHE_BLOCK, head_size, CACHE_BLOCK)
        values = (num_kv_heads, num_slots, head_size)
        return keys, values

    def places(self, slot: int) -> tuple[SlotIndex, SlotIndex]:
        """Keys of slot 70 are in block 1 at place 6."""
        block, within = divmod(slot, CACHE_BLOCK)
        return (_ALL, _ALL, block, _ALL, within), (_ALL, _ALL, slot)


PORTABLE_LAYOUT: Final[CacheLayout] = PortableLayout()
NATIVE_LAYOUT: Final[CacheLayout] = NativeLayout()


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheShape:
    """Size of a cache.

    Attributes:
        num_layers: number of blocks.
        num_kv_heads: number of key-value heads, Hkv.
        capacity: number of slots that a sequence may use.
        head_size: head size, D.
        dtype: number type of keys and values.
        layout: how slots lie in the buffers; a native layout may allocate more slots than `capacity`.
        num_sequences: number of sequences, B.
    """

    num_layers: int
    num_kv_heads: int
    capacity: int
    head_size: int
    dtype: CacheType = np.float32
    layout: CacheLayout = PORTABLE_LAYOUT
    num_sequences: int = 1

    @property
    def num_slots(self) -> int:
        """Number of slots that are allocated."""
        return self.layout.num_slots(self.capacity)

    @property
    def buffers(self) -> tuple[Shape, Shape]:
        """Shape of one block's keys and of its values."""
        keys, values = self.layout.shapes(self.num_kv_heads, self.num_slots, self.head_size)
        return (self.num_sequences, *keys), (self.num_sequences, *values)

    @property
    def num_bytes(self) -> int:
        """Size of all buffers in bytes."""
        numbers_a_block = sum(math.prod(shape) for shape in self.buffers)
        return self.num_layers * numbers_a_block * np.dtype(self.dtype).itemsize


def cache_type(session: Session) -> CacheType:
    """The number type that a graph reads its cache in."""
    cache_input = next(value for value in session.get_inputs() if is_past(value.name))
    return CACHE_TYPES[cache_input.type]


class CacheMemory:
    """Buffers of keys and values, allocated once.

    Every buffer is bound as past and as present of its block, so the graph writes new rows in place.

    Args:
        shape: size of the cache.
        device: `cpu` or `cuda`.
        first_layer: number of the first block in the graph's names.

    Attributes:
        shape: size of the cache.
        buffers: key 0, value 0, key 1, ...; empty where they lie on another device than the CPU.
        addresses: address of each buffer on another device than the CPU; empty on the CPU.
        num_bytes: size of all buffers, touched or not.
    """

    def __init__(self, shape: CacheShape, *, device: str = CPU, first_layer: int = 0) -> None:
        self.shape = shape
        self.num_bytes = shape.num_bytes
        self.buffers: list[NDArray[Any]] = []
        self.addresses: list[int] = []
        self._device = device
        self._parts = [
            (layer, part) for layer in range(first_layer, first_layer + shape.num_layers) for part in (KEY, VALUE)
        ]
        self._all_blocks: tuple[NDArray[Any], ...] = ()
        if device == CPU:
            self._allocate_here()
        else:
            self._allocate_on_device()

    def _allocate_here(self) -> None:
        key_shape, value_shape = self.shape.buffers
        keys = zeros((self.shape.num_layers, *key_shape), self.shape.dtype)
        values = zeros((self.shape.num_layers, *value_shape), self.shape.dtype)
        self._all_blocks = (keys, values)
        self.buffers = [buffer for block in zip(keys, values, strict=True) for buffer in block]
        ort_value = ort_value_of()
        self._values = [ort_value(buffer) for buffer in self.buffers]

    def _allocate_on_device(self) -> None:
        self._memory = DeviceMemory(self.num_bytes)
        num_buffers = len(self._parts)
        size = self.num_bytes // num_buffers
        self.addresses = [self._memory.address + index * size for index in range(num_buffers)]

    def bind(self, binding: Binding) -> None:
        """Bind every buffer as past and as present in a binding, which must not outlive this memory."""
        if self.buffers:
            for (layer, part), value in zip(self._parts, self._values, strict=True):
                binding.bind_ortvalue_input(past(layer, part), value)
                binding.bind_ortvalue_output(present(layer, part), value)
            return
        keys, values = self.shape.buffers
        for (layer, part), address in zip(self._parts, self.addresses, strict=True):
            place = (self._device, 0, self.shape.dtype, keys if part == KEY else values, address)
            binding.bind_input(past(layer, part), *place)
            binding.bind_output(present(layer, part), *place)
