"""A GPU's memory: how one limit is shared, what it leaves to a session, and how many rows of a forward it holds.

How many rows fit is found by trying, because the kernels that run, and what they need, vary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dovetail_ort_runtime.errors import InputError, UnavailableError

# Forwards of so many rows stay bound. Longer ones are rare, and each would keep its inputs in the device's memory.
KEPT_ROWS: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class VramShare:
    """What each of two sessions may take of one limit.

    Attributes:
        first_blocks: bytes for the target's first blocks; None without a limit.
        drafter: bytes for the drafter; None without a limit.
    """

    first_blocks: int | None
    drafter: int | None

    @classmethod
    def of(cls, vram_limit: int | None, *, first_blocks_bytes: int, drafter_bytes: int) -> VramShare:
        """Each session gets its weights, its cache and half of what is left for forwards.

        Args:
            vram_limit: bytes that both may take together; None without a limit.
            first_blocks_bytes: weights and cache of the first blocks; 0 if they are on the CPU.
            drafter_bytes: weights and cache of the drafter; 0 if it is on the CPU.

        Raises:
            InputError: the limit does not hold the weights and the caches of both.
        """
        if vram_limit is None or not first_blocks_bytes or not drafter_bytes:
            return cls(first_blocks=vram_limit, drafter=vram_limit)
        spare = vram_limit - first_blocks_bytes - drafter_bytes
        if spare < 0:
            raise InputError(
                f"vram_limit must hold {first_blocks_bytes} bytes of the target's first blocks and {drafter_bytes} of "
                f"the drafter, weights and cache, got {vram_limit}; load with a larger one, with a smaller max_context "
                "or with one of them on the CPU"
            )
        first_blocks = first_blocks_bytes + spare // 2
        return cls(first_blocks=first_blocks, drafter=vram_limit - first_blocks)


def memory_left(weights: int, cache: int, vram_limit: int | None) -> int | None:
    """Bytes that a limit leaves to a session beside its cache; None without a limit.

    Args:
        weights: bytes of the session's weights.
        cache: bytes of its cache.
        vram_limit: bytes that session and cache may take together; None without a limit.

    Raises:
        InputError: the limit does not hold weights and cache.
    """
    if vram_limit is None:
        return None
    if vram_limit < weights + cache:
        raise InputError(
            f"vram_limit must hold {weights} bytes of weights and {cache} of cache, got {max(vram_limit, 0)}; "
            "load with a larger one or with a smaller max_context"
        )
    return vram_limit - cache


def rows_that_fit(most: int, least: int, capacity: int, run_forward: Callable[[int], object]) -> int:
    """The largest of most, most / 2, most / 4, ... rows whose forwards fit, beside what stays bound for short ones.

    Args:
        most: rows of a forward where there is memory enough.
        least: rows that must fit.
        capacity: slots of the cache.
        run_forward: runs so many rows that end in the last slot, and gives what is bound for them.

    Raises:
        UnavailableError: `run_forward` raised it for `least` rows.
    """
    rows = most
    while not _fits(rows, capacity, run_forward, last=rows // 2 < least):
        rows //= 2
    return rows


def with_reserve(rows: int) -> int:
    """Rows of the longest forward that must fit if `rows` are allowed: forwards leave gaps in a device's memory."""
    return rows + max(rows // 2, 1)


def _fits(rows: int, capacity: int, run_forward: Callable[[int], object], *, last: bool) -> bool:
    longest = with_reserve(rows)
    bound = []
    try:
        for size in (longest, *range(rows, 0, -1), longest):
            forward = run_forward(min(size, capacity))
            if size <= KEPT_ROWS:
                bound.append(forward)
    except UnavailableError:
        if last:
            raise
        return False
    return True
