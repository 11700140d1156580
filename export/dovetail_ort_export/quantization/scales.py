"""Scales of 8-bit weights, from the largest magnitude of a block, of an output or of a group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.native_layout import GROUP

LARGEST_CODE: Final = 127
# Float copies of a large head are never in memory as a whole: so many outputs are worked on at a time. It is a multiple
# of the 32 outputs that packed weights hold side by side.
PORTION_ROWS: Final = 256
_SMALLEST_FACTOR: Final = np.finfo(np.float16).tiny  # smaller numbers have few bits or none in half precision
_SMALLEST_SCALE: Final = np.finfo(np.float32).tiny  # a smaller scale has few bits or none, so its weights count as zero


def row_portions(num_rows: int) -> Iterator[slice]:
    """Slices of at most `PORTION_ROWS` rows that together are all rows, in order.

    Example: 600 rows are 0 to 255, 256 to 511 and 512 to 599.
    """
    for start in range(0, num_rows, PORTION_ROWS):
        yield slice(start, min(start + PORTION_ROWS, num_rows))


def scales_of(largest: FloatArray, largest_code: int) -> FloatArray:
    """Scales that make the largest magnitudes, any shape float32, the largest code; 1 where they are nearly zero."""
    exact = largest / np.float32(largest_code)
    return np.where(exact >= _SMALLEST_SCALE, exact, np.float32(1))


def output_scales(weight: FloatArray) -> FloatArray:
    """Scales (N,) of a weight (N, K), both float32: largest magnitude of an output over 127; 1 where nearly zero."""
    scales = np.empty(len(weight), dtype=np.float32)
    for rows in row_portions(len(weight)):
        scales[rows] = scales_of(np.abs(weight[rows]).max(axis=1), LARGEST_CODE)
    return scales


def group_factors(weight: FloatArray) -> NDArray[np.float16]:
    """Factors (N, ceil(K / 64)) of a weight (N, K) float32: a group of 64 inputs beside the whole output.

    A factor is the largest magnitude of the group over that of the output, rounded up, so that no input is more than
    127 steps of `output_scales(weight)[n] * factor`; 1 where the group or the output is zero or nearly so.
    """
    num_outputs, num_inputs = weight.shape
    factors = np.empty((num_outputs, -(-num_inputs // GROUP)), dtype=np.float16)
    starts = np.arange(0, num_inputs, GROUP)
    for rows in row_portions(num_outputs):
        largest = np.maximum.reduceat(np.abs(weight[rows]), starts, axis=1)
        of_output = largest.max(axis=1, keepdims=True)
        counts = (largest > 0) & (of_output / np.float32(LARGEST_CODE) >= _SMALLEST_SCALE)
        shares = np.divide(largest, of_output, out=np.ones(largest.shape), where=counts, dtype=np.float64)
        factors[rows] = np.maximum(_rounded_up(shares), _SMALLEST_FACTOR)
    return factors


def _rounded_up(shares: NDArray[np.float64]) -> NDArray[np.float16]:
    """The smallest float16 that are not below shares of at most 1."""
    nearest = shares.astype(np.float16)
    return np.where(nearest < shares, np.nextafter(nearest, np.float16(1)), nearest)
