"""Memory of the host that a graph's forwards read and write. It knows no graph."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dovetail_ort_runtime.engine.devices import CUDA
from dovetail_ort_runtime.machine.cuda_runtime import page_locked_zeros


class HostBuffers:
    """Memory of the host that a session reads and writes, shared by its forwards of all sizes.

    One forward runs at a time, so each may overwrite what the last one read and wrote. For a GPU the memory is
    page-locked, and the GPU copies from it without a detour. To get such memory takes milliseconds, more than a
    drafter's forward, so no size of forward has memory of its own.

    Args:
        device: `cpu` or `cuda`.
    """

    def __init__(self, device: str) -> None:
        self._zeros = page_locked_zeros if device == CUDA else np.zeros
        self._whole: dict[str, NDArray[Any]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """The beginning of the memory of that name, as an array.

        Where the memory is too small, it is made anew and larger. Arrays that were handed out before stay valid.
        """
        size = prod(shape)
        whole = self._whole.get(name)
        if whole is None or len(whole) < size:
            rounded = 1 << (size - 1).bit_length()
            whole = self._zeros((rounded,), dtype)
            self._whole[name] = whole
        return whole[:size].reshape(shape)
