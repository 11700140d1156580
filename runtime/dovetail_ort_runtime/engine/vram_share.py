"""What each of two sessions may take of one limit of a GPU's memory."""

from __future__ import annotations

from dataclasses import dataclass

from dovetail_ort_runtime.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class VramShare:
    """Bytes of a GPU's memory; None without a limit.

    Attributes:
        front: for the target's first blocks.
        drafter: for the drafter.
    """

    front: int | None
    drafter: int | None

    @classmethod
    def of(cls, vram_limit: int | None, *, front_bytes: int, drafter_bytes: int) -> VramShare:
        """Each has its weights and its cache, which are 0 bytes on the CPU, and half of what is left for forwards.

        Raises:
            InputError: the limit does not hold the weights and the caches of both.
        """
        if vram_limit is None or not front_bytes or not drafter_bytes:
            return cls(front=vram_limit, drafter=vram_limit)
        spare = vram_limit - front_bytes - drafter_bytes
        if spare < 0:
            raise InputError(
                f"vram_limit must hold {front_bytes} bytes of the target's first blocks and {drafter_bytes} of the "
                f"drafter, weights and cache, got {vram_limit}; load with a larger one, with a smaller max_context or "
                "with one of them on the CPU"
            )
        front = front_bytes + spare // 2
        return cls(front=front, drafter=vram_limit - front)
