"""The KV cache of one sequence: written in place by the graph, rewound by moving a length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dovetail_ort_runtime.engine.cache_memory import CacheMemory, CacheShape
from dovetail_ort_runtime.engine.devices import CPU
from dovetail_ort_runtime.machine.process_memory import use_large_pages

# From so many tokens on, a forward reads enough of the cache for large pages to pay. Gaining them can take 0.5 s.
_LONG: Final = 2048


def num_reusable(read: Sequence[int], text: Sequence[int]) -> int:
    """How many tokens at the start of a text need no reading; the last one is read in any case, for its logits.

    Args:
        read: tokens in a cache.
        text: one token or more.
    """
    limit = min(len(read), len(text) - 1)
    number = 0
    while number < limit and read[number] == text[number]:
        number += 1
    return number


class KVCache(CacheMemory):
    """Keys and values of one sequence, and how many of its slots are kept.

    The graph writes new rows from slot `length` onwards. The next forward overwrites whatever is not kept.

    Args:
        shape: size of the cache; it has one sequence.
        device: `cpu` or `cuda`.
        first_layer: number of the first block in the graph's names.
        first_blocks: cache of the blocks before these ones, which keeps and forgets the same slots.

    Attributes:
        capacity: number of slots that may be used.
        length: number of slots that hold kept tokens.
    """

    def __init__(
        self,
        shape: CacheShape,
        *,
        device: str = CPU,
        first_layer: int = 0,
        first_blocks: KVCache | None = None,
    ) -> None:
        super().__init__(shape, device=device, first_layer=first_layer)
        self.capacity = shape.capacity
        self.length = 0
        self._first_blocks = first_blocks
        self._has_large_pages = False

    def keep(self, rows: Sequence[int]) -> None:
        """Keep some rows of the last forward, which wrote them from slot `length` on.

        Example, length 10: `keep([0, 1, 4])` leaves slots 10 and 11, moves slot 14 to 12, and the length is 13.

        Args:
            rows: numbers of the rows, in increasing order.
        """
        if self._first_blocks is not None:
            self._first_blocks.keep(rows)
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
        layout = self.shape.layout
        places = zip(layout.places(slot), layout.places(new_slot), strict=True)
        for blocks, (old, new) in zip(self._all_blocks, places, strict=True):
            blocks[(slice(None), *new)] = blocks[(slice(None), *old)]

    def fill(self, length: int) -> None:
        """Keep slots 0 to `length` - 1 without a text: what a forward costs does not depend on what it reads."""
        for blocks in self._all_blocks:
            touched = -(-blocks.shape[3] * length // self.shape.num_slots)
            blocks[:, :, :, :touched] = 1
        self.length = length
        if self._first_blocks is not None:
            self._first_blocks.fill(length)

    def rewind(self, length: int) -> None:
        """Forget every slot from `length` on."""
        self.length = min(self.length, length)
        if self._first_blocks is not None:
            self._first_blocks.rewind(length)
