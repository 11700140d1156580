"""Weights as integers in blocks along the input axis, as the operators of a stock ONNX Runtime read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_export.quantization.scales import row_portions, scales_of
from dovetail_ort_runtime.arrays import FloatArray

BLOCK_SIZES: Final = (16, 32, 64, 128)
BLOCK_BITS: Final = (4, 8)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFormat:
    """How weights are stored.

    Attributes:
        block_size: number of weights that share a scale, one of `BLOCK_SIZES`.
        bits: number of bits of a weight, one of `BLOCK_BITS`.
    """

    block_size: int = 32
    bits: int = 8

    @property
    def zero_point(self) -> int:
        """Code that stands for 0: the default of both operators for unsigned weights."""
        return 1 << (self.bits - 1)

    @property
    def largest(self) -> int:
        """Steps from 0 to the largest magnitude of a block."""
        return self.zero_point - 1

    @property
    def block_bytes(self) -> int:
        """Size of a block without its scale, in bytes."""
        return self.block_size * self.bits // 8


def block_scales(weight: FloatArray, form: BlockFormat) -> FloatArray:
    """Scales of the blocks of a weight.

    A scale is the block's largest magnitude over `form.largest`; 1 where the block is zero or nearly so.

    Args:
        weight: (N, K) float32, K a multiple of the block size.
        form: how the weight is stored.

    Returns:
        (N, K / block_size) float32.
    """
    num_blocks = weight.shape[1] // form.block_size
    scales = np.empty((len(weight), num_blocks), dtype=np.float32)
    for rows in row_portions(len(weight)):
        blocks = np.abs(weight[rows]).reshape(-1, num_blocks, form.block_size)
        scales[rows] = scales_of(blocks.max(axis=-1), form.largest)
    return scales


def quantize_blocks(weight: FloatArray, form: BlockFormat) -> NDArray[np.uint8]:
    """A weight as multiples of its blocks' scales, rounded to the nearest, half to even, offset by the zero point.

    Args:
        weight: (N, K) float32, K a multiple of the block size.
        form: how the weight is stored.

    Returns:
        (N, K / block_size, block_bytes) uint8. With 8 bits, `(quantize_blocks(w, form) - 128.0) *
        block_scales(w, form)[..., None]` is close to `w`; with 4, a byte holds two weights, the first in its low half.
    """
    scales = block_scales(weight, form)
    quantized = np.empty((*scales.shape, form.block_bytes), dtype=np.uint8)
    for rows in row_portions(len(weight)):
        steps = weight[rows].reshape(-1, scales.shape[1], form.block_size) / scales[rows, :, None]
        codes = (np.rint(steps) + form.zero_point).astype(np.uint8)
        quantized[rows] = codes if form.bits == 8 else _two_in_a_byte(codes)
    return quantized


def _two_in_a_byte(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes (..., n) of 4 bits as (..., n / 2) bytes."""
    low = codes[..., ::2]
    high = codes[..., 1::2]
    return low | high << np.uint8(4)
