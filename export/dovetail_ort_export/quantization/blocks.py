"""Weights as integers with scales: by block along the input axis, or by output with a factor for each 64 inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray

BLOCK_SIZES: Final = (16, 32, 64, 128)
BLOCK_BITS: Final = (4, 8)
LARGEST: Final = 127
GROUP: Final = 64
_SMALLEST_FACTOR: Final = np.finfo(np.float16).tiny  # below, half precision has few bits or none
_SMALLEST_SCALE: Final = np.finfo(np.float32).tiny  # below, a scale has few bits or none: what is so small is zero
_PORTION_ROWS: Final = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFormat:
    """How weights are stored.

    Attributes:
        block_size: weights that share a scale, one of `BLOCK_SIZES`.
        bits: of a weight, one of `BLOCK_BITS`.
    """

    block_size: int = 32
    bits: int = 8

    @property
    def zero_point(self) -> int:
        """What stands for 0: both operators' default for unsigned weights."""
        return 1 << (self.bits - 1)

    @property
    def largest(self) -> int:
        """Steps from 0 to the largest magnitude of a block."""
        return self.zero_point - 1

    @property
    def block_bytes(self) -> int:
        """Size of a block without its scale."""
        return self.block_size * self.bits // 8


def block_scales(weight: FloatArray, form: BlockFormat) -> FloatArray:
    """Scales (N, K / block_size) of a weight (N, K), both float32; K is a multiple of the block size.

    A scale is the block's largest magnitude over `form.largest`; 1 where the block is zero or nearly so.
    """
    scales = np.empty((len(weight), weight.shape[1] // form.block_size), dtype=np.float32)
    for rows in _row_slices(weight):
        largest = np.abs(weight[rows]).reshape(-1, scales.shape[1], form.block_size).max(axis=-1)
        exact = largest / np.float32(form.largest)
        scales[rows] = np.where(exact >= _SMALLEST_SCALE, exact, np.float32(1))
    return scales


def quantize_blocks(weight: FloatArray, form: BlockFormat) -> NDArray[np.uint8]:
    """A weight (N, K) float32 as multiples of its blocks' scales, nearest even, offset by the zero point.

    Returns:
        (N, K / block_size, block_bytes) uint8. With 8 bits, `(quantize_blocks(w, form) - 128.0) *
        block_scales(w, form)[..., None]` is close to `w`; with 4, a byte holds two weights, the first in its low half.
    """
    scales = block_scales(weight, form)
    quantized = np.empty((*scales.shape, form.block_bytes), dtype=np.uint8)
    for rows in _row_slices(weight):
        steps = weight[rows].reshape(-1, scales.shape[1], form.block_size) / scales[rows, :, None]
        codes = (np.rint(steps) + form.zero_point).astype(np.uint8)
        quantized[rows] = codes if form.bits == 8 else codes[..., ::2] | codes[..., 1::2] << 4
    return quantized


def _row_slices(weight: FloatArray) -> Iterator[slice]:
    """Portions of rows, so that the float copies of a large head never stand in memory as a whole."""
    return (slice(start, start + _PORTION_ROWS) for start in range(0, len(weight), _PORTION_ROWS))


def output_scales(weight: FloatArray) -> FloatArray:
    """Scales (N,) of a weight (N, K), both float32: largest magnitude of an output over 127; 1 where nearly zero."""
    scales = np.empty(len(weight), dtype=np.float32)
    for rows in _row_slices(weight):
        exact = np.abs(weight[rows]).max(axis=1) / np.float32(LARGEST)
        scales[rows] = np.where(exact >= _SMALLEST_SCALE, exact, np.float32(1))
    return scales


def group_factors(weight: FloatArray) -> NDArray[np.float16]:
    """Factors (N, ceil(K / 64)) of a weight (N, K) float32: a group of 64 inputs beside the whole output.

    A factor is the largest magnitude of the group over that of the output, rounded up, so that no input is more than
    127 steps of `output_scales(weight)[n] * factor`; 1 where the group or the output is zero or nearly so.
    """
    num_outputs, num_inputs = weight.shape
    factors = np.empty((num_outputs, -(-num_inputs // GROUP)), dtype=np.float16)
    starts = np.arange(0, num_inputs, GROUP)
    for rows in _row_slices(weight):
        largest = np.maximum.reduceat(np.abs(weight[rows]), starts, axis=1)
        of_output = largest.max(axis=1, keepdims=True)
        counts = (largest > 0) & (of_output / np.float32(LARGEST) >= _SMALLEST_SCALE)
        shares = np.divide(largest, of_output, out=np.ones(largest.shape), where=counts, dtype=np.float64)
        nearest = shares.astype(np.float16)
        rounded_up = np.where(nearest < shares, np.nextafter(nearest, np.float16(1)), nearest)
        factors[rows] = np.maximum(rounded_up, _SMALLEST_FACTOR)
    return factors
