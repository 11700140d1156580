"""8-bit weights in blocks along the input axis, the numbers behind MatMulNBits and GatherBlockQuantized."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray

BLOCK_SIZE: Final = 32
ZERO_POINT: Final = 128  # both operators' default for unsigned 8-bit weights
_LARGEST: Final = 127


def block_scales(weight: FloatArray) -> FloatArray:
    """Scale of each block: its largest magnitude over 127; 1 where the block is all zero.

    Args:
        weight: (N, K) float32, K a multiple of 32.

    Returns:
        (N, K / 32) float32.
    """
    blocks = np.abs(weight.reshape(len(weight), -1, BLOCK_SIZE)).max(axis=-1)
    return np.where(blocks > 0, blocks / np.float32(_LARGEST), np.float32(1))


def quantize_blocks(weight: FloatArray) -> NDArray[np.uint8]:
    """Weights as multiples of their block's scale, nearest even, offset by 128.

    Args:
        weight: (N, K) float32, K a multiple of 32.

    Returns:
        (N, K / 32, 32) uint8; `(quantize_blocks(w) - 128.0) * block_scales(w)[..., None]` is close to `w`.
    """
    blocks = weight.reshape(len(weight), -1, BLOCK_SIZE)
    steps = blocks / block_scales(weight)[..., None]
    np.rint(steps, out=steps)
    return (steps + ZERO_POINT).astype(np.uint8)
