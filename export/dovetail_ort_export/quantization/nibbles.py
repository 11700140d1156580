"""Weights in 4 bits: groups of 32 inputs of an output, each with a step and a minimum in half precision.

A number is (step * code + minimum) * scale, code 0 to 15. The scale is a power of two for each output, so that steps
are normal float16. Weights that have this form already keep their values: GGUF's Q4_1, and Q4_0 with minima of -8
steps.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_export.quantization.packed_weights import padded_inputs
from dovetail_ort_export.quantization.scales import row_portions
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.native_layout import INPUTS_SIDE_BY_SIDE, NIBBLE_GROUP, OUTPUTS_SIDE_BY_SIDE

_LARGEST_CODE: Final = 15
_RANGES: Final = (1.0, 0.95, 0.9, 0.85, 0.8)  # shares of a group's range; numbers outside get the codes at the ends
_LARGEST_EXPONENT: Final = 14  # float16 holds numbers below 2^15 as they are


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NibbleWeight:
    """A weight (N, K) in 4 bits, with G groups of 32 inputs for each output.

    Attributes:
        codes: (N, 32 G) uint8, 0 to 15; the codes of padding inputs have no meaning.
        steps: (N, G) float16, what one code more counts.
        minima: (N, G) float16, what code 0 stands for.
        scales: (N,) float32, powers of two.
    """

    codes: NDArray[np.uint8]
    steps: NDArray[np.float16]
    minima: NDArray[np.float16]
    scales: FloatArray

    def values(self, num_inputs: int) -> FloatArray:
        """The numbers that it stands for, (N, num_inputs) float32."""
        groups = self.codes.reshape(*self.steps.shape, NIBBLE_GROUP)
        values = _values(groups, self.steps, self.minima).reshape(self.codes.shape)
        return values[:, :num_inputs] * self.scales[:, None]


def quantize_nibbles(weight: FloatArray) -> NibbleWeight:
    """A weight (N, K) float32 in 4 bits.

    A group tries a few ranges, narrower and wider than its own, and takes the one with the smallest squared error. Step
    and minimum are rounded to half precision before the codes are chosen.
    """
    portions = [_quantize(weight[rows]) for rows in row_portions(len(weight))]
    return NibbleWeight(
        codes=np.concatenate([portion.codes for portion in portions]),
        steps=np.concatenate([portion.steps for portion in portions]),
        minima=np.concatenate([portion.minima for portion in portions]),
        scales=np.concatenate([portion.scales for portion in portions]),
    )


def packed_nibbles_shape(num_outputs: int, num_inputs: int) -> tuple[int, int, int, int]:
    """Shape of the packed codes of a weight (num_outputs, num_inputs)."""
    slabs = -(-num_outputs // OUTPUTS_SIDE_BY_SIDE)
    eights = padded_inputs(num_inputs) // (2 * INPUTS_SIDE_BY_SIDE)
    return slabs, eights, OUTPUTS_SIDE_BY_SIDE, INPUTS_SIDE_BY_SIDE


def packed_steps_shape(num_outputs: int, num_inputs: int) -> tuple[int, int, int, int]:
    """Shape of the packed steps and minima of a weight (num_outputs, num_inputs)."""
    groups = padded_inputs(num_inputs) // NIBBLE_GROUP
    return -(-num_outputs // OUTPUTS_SIDE_BY_SIDE), groups, 2, OUTPUTS_SIDE_BY_SIDE


def pack_nibbles(weight: FloatArray) -> NDArray[np.uint8]:
    """The codes of a weight (N, K) float32 as the operators read them, two in a byte.

    Returns:
        (ceil(N / 32), Kp / 8, 32, 4) uint8, Kp being K rounded up to a multiple of 64. The low half of byte j is the
        code of input 8 i + j, the high half that of input 8 i + 4 + j. Padding is 0.
    """
    num_outputs, num_inputs = weight.shape
    slabs, eights, side, _ = packed_nibbles_shape(num_outputs, num_inputs)
    codes = np.zeros((slabs * side, eights * 8), dtype=np.uint8)
    codes[:num_outputs, :num_inputs] = quantize_nibbles(weight).codes[:, :num_inputs]
    halves = codes.reshape(slabs, side, eights, 2, 4)
    packed: NDArray[np.uint8] = halves[:, :, :, 0] + 16 * halves[:, :, :, 1]
    return packed.swapaxes(1, 2)


def pack_steps(weight: FloatArray) -> NDArray[np.float16]:
    """Steps and minima of a weight (N, K) float32 as the operators read them.

    Returns:
        (ceil(N / 32), Kp / 32, 2, 32) float16: steps, then minima. Padding is 0.
    """
    quantized = quantize_nibbles(weight)
    slabs, groups, _, side = packed_steps_shape(*weight.shape)
    packed = np.zeros((2, slabs * side, groups), dtype=np.float16)
    packed[0, : len(weight), : quantized.steps.shape[1]] = quantized.steps
    packed[1, : len(weight), : quantized.minima.shape[1]] = quantized.minima
    return packed.reshape(2, slabs, side, groups).transpose(1, 3, 0, 2)


def nibble_scales(weight: FloatArray) -> FloatArray:
    """The scales (N,) of a weight (N, K) in 4 bits.

    A power of two that brings the output's largest magnitude into [0.5, 1); 1 where float16 holds it as it is, or where
    it is zero.
    """
    largest = np.maximum(weight.max(axis=1), -weight.min(axis=1))
    _, exponents = np.frexp(largest)
    exponents[(exponents >= 0) & (exponents <= _LARGEST_EXPONENT)] = 0
    scales: FloatArray = np.exp2(exponents.clip(-126), dtype=np.float32)
    return scales


def _quantize(weight: FloatArray) -> NibbleWeight:
    num_outputs, num_inputs = weight.shape
    scales = nibble_scales(weight)
    fill = -num_inputs % NIBBLE_GROUP
    padded = np.pad(weight / scales[:, None], ((0, 0), (0, fill)), mode="edge")
    groups = padded.reshape(num_outputs, -1, NIBBLE_GROUP)
    tried = (_coded(groups, step.astype(np.float16), minimum.astype(np.float16)) for step, minimum in _ranges(groups))
    best = functools.reduce(_better, tried)
    return NibbleWeight(codes=best.codes.reshape(num_outputs, -1), steps=best.steps, minima=best.minima, scales=scales)


def _ranges(groups: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Steps and minima (N, G) float32 to try for groups (N, G, 32): GGUF's Q4_0, then shares of the group's range."""
    least = groups.min(axis=-1)
    most = groups.max(axis=-1)
    extreme = np.where(-least > most, least, most)
    yield extreme / np.float32(-8), extreme
    middle = (least + most) / 2
    half = (most - least) / 2
    for share in _RANGES:
        yield 2 * half * share / _LARGEST_CODE, middle - half * share


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Coded:
    """One try for every group.

    Attributes:
        codes: (N, G, 32) uint8, 0 to 15.
        steps: (N, G) float16, what one code more counts.
        minima: (N, G) float16, what code 0 stands for.
        errors: (N, G) float32, squared errors.
    """

    codes: NDArray[np.uint8]
    steps: NDArray[np.float16]
    minima: NDArray[np.float16]
    errors: FloatArray


def _coded(groups: FloatArray, steps: NDArray[np.float16], minima: NDArray[np.float16]) -> _Coded:
    """Groups (N, G, 32) with these steps and minima (N, G), every number as the nearest code."""
    step = steps.astype(np.float32)[..., None]
    shares = np.divide(groups - minima[..., None].astype(np.float32), step, out=np.zeros_like(groups), where=step != 0)
    codes = np.rint(shares).clip(0, _LARGEST_CODE).astype(np.uint8)
    difference = _values(codes, steps, minima) - groups
    errors = np.einsum("ngi,ngi->ng", difference, difference)
    return _Coded(codes=codes, steps=steps, minima=minima, errors=errors)


def _better(first: _Coded, second: _Coded) -> _Coded:
    """For every group the try with the smaller error; the first one where both have the same."""
    is_better = second.errors < first.errors
    return _Coded(
        codes=np.where(is_better[..., None], second.codes, first.codes),
        steps=np.where(is_better, second.steps, first.steps),
        minima=np.where(is_better, second.minima, first.minima),
        errors=np.where(is_better, second.errors, first.errors),
    )


def _values(codes: NDArray[np.uint8], steps: NDArray[np.float16], minima: NDArray[np.float16]) -> FloatArray:
    """Numbers (N, G, 32) float32 that codes stand for, before the scales."""
    return codes * steps.astype(np.float32)[..., None] + minima.astype(np.float32)[..., None]
