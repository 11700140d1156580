"""8-bit weights in blocks along the input axis, the numbers behind MatMulNBits and GatherBlockQuantized."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray

BLOCK_SIZE: Final = 32
ZERO_POINT: Final = 128  # both operators' default for unsigned 8-bit weights
_LARGEST: Final = 127
_SMALLEST_SCALE: Final = np.finfo(np.float32).tiny  # below, a scale has few bits or none: such a block is taken as zero
_PORTION_ROWS: Final = 1024


def block_scales(weight: FloatArray) -> FloatArray:
    """Scale of each block: its largest magnitude over 127; 1 where the block is zero or nearly so.

    Args:
        weight: (N, K) float32, K a multiple of 32.

    Returns:
        (N, K / 32) float32.
    """
    scales = np.empty((len(weight), weight.shape[1] // BLOCK_SIZE), dtype=np.float32)
    for rows in _row_slices(weight):
        largest = np.abs(weight[rows]).reshape(-1, scales.shape[1], BLOCK_SIZE).max(axis=-1)
        exact = largest / np.float32(_LARGEST)
        scales[rows] = np.where(exact >= _SMALLEST_SCALE, exact, np.float32(1))
    return scales


def quantize_blocks(weight: FloatArray) -> NDArray[np.uint8]:
    """Weights as multiples of their block's scale, nearest even, offset by 128.

    Args:
        weight: (N, K) float32, K a multiple of 32.

    Returns:
        (N, K / 32, 32) uint8; `(quantize_blocks(w) - 128.0) * block_scales(w)[..., None]` is close to `w`.
    """
    scales = block_scales(weight)
    quantized = np.empty((*scales.shape, BLOCK_SIZE), dtype=np.uint8)
    for rows in _row_slices(weight):
        steps = weight[rows].reshape(-1, scales.shape[1], BLOCK_SIZE) / scales[rows, :, None]
        quantized[rows] = np.rint(steps) + ZERO_POINT
    return quantized


def _row_slices(weight: FloatArray) -> Iterator[slice]:
    """Rows in portions, so that the float copies of a large head never stand in memory as a whole."""
    return (slice(start, start + _PORTION_ROWS) for start in range(0, len(weight), _PORTION_ROWS))
