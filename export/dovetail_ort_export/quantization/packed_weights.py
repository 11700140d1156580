"""Weights as the native operators read them: 8-bit codes of 32 outputs side by side, four inputs at a time.

The code of output n and input k of a weight (N, K), with Kp = K rounded up to 64, stands at

    ((n // 32 * (Kp // 4) + k // 4) * 32 + n % 32) * 4 + k % 4

and stands for (code - 128) * factor * `scales.output_scales(weight)[n]`. The factor is that of the output's group of 64
inputs, which `scales.group_factors` gives, and stands at (n // 32, k // 64, n % 32). A weight without groups has no
factors: they are 1. Padding codes are 128, and padding factors are 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_export.quantization.scales import group_factors, output_scales, row_portions
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.native_layout import GROUP, INPUT_PAD, INPUTS_SIDE_BY_SIDE, OUTPUTS_SIDE_BY_SIDE

ZERO_CODE: Final = 128


def padded_inputs(num_inputs: int) -> int:
    """Number of inputs of a packed weight, padding included."""
    return -(-num_inputs // INPUT_PAD) * INPUT_PAD


def packed_shape(num_outputs: int, num_inputs: int) -> tuple[int, int, int, int]:
    """Shape of the codes of a weight (num_outputs, num_inputs)."""
    slabs = -(-num_outputs // OUTPUTS_SIDE_BY_SIDE)
    return slabs, padded_inputs(num_inputs) // INPUTS_SIDE_BY_SIDE, OUTPUTS_SIDE_BY_SIDE, INPUTS_SIDE_BY_SIDE


def packed_factors_shape(num_outputs: int, num_inputs: int) -> tuple[int, int, int]:
    """Shape of the factors of a weight (num_outputs, num_inputs)."""
    return -(-num_outputs // OUTPUTS_SIDE_BY_SIDE), -(-num_inputs // GROUP), OUTPUTS_SIDE_BY_SIDE


def pack_factors(weight: FloatArray) -> NDArray[np.float16]:
    """The factors of a weight (N, K) float32 as the operators read them.

    Returns:
        (ceil(N / 32), ceil(K / 64), 32) float16.
    """
    factors = group_factors(weight)
    slabs, groups, side = packed_factors_shape(*weight.shape)
    padded = np.ones((slabs * side, groups), dtype=np.float16)
    padded[: len(factors)] = factors
    return padded.reshape(slabs, side, groups).swapaxes(1, 2)


def pack_codes(weight: FloatArray, *, group: int = GROUP) -> NDArray[np.uint8]:
    """A weight in multiples of its scales, rounded to the nearest, half to even, as the operators read it.

    Args:
        weight: (N, K) float32.
        group: 64 if each 64 inputs of an output have a factor, 0 if they have none.

    Returns:
        (ceil(N / 32), Kp / 4, 32, 4) uint8, Kp being K rounded up to a multiple of 64.
    """
    num_outputs, num_inputs = weight.shape
    scales = output_scales(weight)
    packed = np.empty(packed_shape(num_outputs, num_inputs), dtype=np.uint8)
    _, groups, side, inputs = packed.shape
    for rows in row_portions(num_outputs):
        steps = weight[rows] / scales[rows, None]
        if group:
            steps /= _by_input(group_factors(weight[rows]), num_inputs)
        np.rint(steps, out=steps)
        slabs = _slabs_of(rows)
        num_slabs = slabs.stop - slabs.start
        codes = np.full((num_slabs * side, groups * inputs), ZERO_CODE, dtype=np.uint8)
        codes[: len(steps), :num_inputs] = steps + ZERO_CODE
        packed[slabs] = codes.reshape(num_slabs, side, groups, inputs).swapaxes(1, 2)
    return packed


def unpack_codes(packed: NDArray[np.uint8], num_outputs: int, num_inputs: int) -> NDArray[np.uint8]:
    """The codes of a weight, one row for each output.

    Args:
        packed: (slabs, Kp / 4, 32, 4), whole slabs of a weight.
        num_outputs: N, number of outputs in those slabs without padding.
        num_inputs: K, inputs without those that fill up.

    Returns:
        (N, K) uint8, a copy.
    """
    slabs, groups, side, inputs = packed.shape
    codes = packed.swapaxes(1, 2).reshape(slabs * side, groups * inputs)
    return codes[:num_outputs, :num_inputs].copy()


def unpack_weight(
    packed: NDArray[np.uint8], scales: FloatArray, num_inputs: int, factors: NDArray[np.float16] | None = None
) -> FloatArray:
    """The numbers that codes stand for.

    Args:
        packed: (ceil(N / 32), Kp / 4, 32, 4) uint8 from `pack_codes`.
        scales: (N,) float32, a scale for each output.
        num_inputs: K, inputs without those that fill up.
        factors: (ceil(N / 32), ceil(K / 64), 32) float16 from `pack_factors`; None for a weight without groups.

    Returns:
        (N, K) float32.
    """
    weight = np.empty((len(scales), num_inputs), dtype=np.float32)
    for rows in row_portions(len(scales)):
        slabs = _slabs_of(rows)
        steps = unpack_codes(packed[slabs], rows.stop - rows.start, num_inputs).astype(np.float32) - ZERO_CODE
        if factors is not None:
            of_slabs = factors[slabs].swapaxes(1, 2).reshape(-1, factors.shape[1])
            steps *= _by_input(of_slabs[: len(steps)], num_inputs)
        np.multiply(steps, scales[rows, None], out=weight[rows])
    return weight


def _slabs_of(rows: slice) -> slice:
    """The slabs of 32 outputs that a portion of outputs, beginning with a whole slab, is in."""
    return slice(rows.start // OUTPUTS_SIDE_BY_SIDE, -(-rows.stop // OUTPUTS_SIDE_BY_SIDE))


def _by_input(factors: NDArray[np.float16], num_inputs: int) -> FloatArray:
    """Factors (N, groups) as (N, num_inputs) float32."""
    return np.repeat(factors.astype(np.float32), GROUP, axis=1)[:, :num_inputs]
