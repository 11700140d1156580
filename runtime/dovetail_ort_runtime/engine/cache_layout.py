"""Where keys and values of a position lie in a cache's buffers."""

from __future__ import annotations

from typing import Final, Protocol

from dovetail_ort_runtime.kernels import CACHE_BLOCK

Shape = tuple[int, ...]
Place = tuple[int | slice, ...]
_ALL: Final = slice(None)


class CacheLayout(Protocol):
    """Shapes of the buffers of one block, and the place of a slot in them."""

    def num_slots(self, capacity: int) -> int:
        """Slots that are allocated for so many."""

    def shapes(self, num_kv_heads: int, num_slots: int, head_size: int) -> tuple[Shape, Shape]:
        """Of keys and of values."""

    def places(self, slot: int) -> tuple[Place, Place]:
        """Index of a slot's keys and of its values, both (1, Hkv, D)."""


class PortableLayout:
    """Keys and values (1, Hkv, M, D): `GroupQueryAttention`."""

    def num_slots(self, capacity: int) -> int:
        """As many."""
        return capacity

    def shapes(self, num_kv_heads: int, num_slots: int, head_size: int) -> tuple[Shape, Shape]:
        """One shape for both."""
        shape = (1, num_kv_heads, num_slots, head_size)
        return shape, shape

    def places(self, slot: int) -> tuple[Place, Place]:
        """One place for both."""
        place = (_ALL, _ALL, slot)
        return place, place


class NativeLayout:
    """Keys (1, Hkv, M / 64, D, 64), 64 positions side by side, and values (1, Hkv, M, D): the native `Attention`."""

    def num_slots(self, capacity: int) -> int:
        """Whole blocks of positions; of 100 slots, 128."""
        return -(-capacity // CACHE_BLOCK) * CACHE_BLOCK

    def shapes(self, num_kv_heads: int, num_slots: int, head_size: int) -> tuple[Shape, Shape]:
        """Keys have an axis more."""
        keys = (1, num_kv_heads, num_slots // CACHE_BLOCK, head_size, CACHE_BLOCK)
        return keys, (1, num_kv_heads, num_slots, head_size)

    def places(self, slot: int) -> tuple[Place, Place]:
        """Keys of slot 70 are in block 1 at 6."""
        block, within = divmod(slot, CACHE_BLOCK)
        return (_ALL, _ALL, block, _ALL, within), (_ALL, _ALL, slot)


PORTABLE_LAYOUT: Final[CacheLayout] = PortableLayout()
NATIVE_LAYOUT: Final[CacheLayout] = NativeLayout()
