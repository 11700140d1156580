"""Weights in 4 bits against the formula of the layout, written out index by index, and what they keep."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_export.quantization.nibbles import (
    nibble_scales,
    pack_nibbles,
    pack_steps,
    packed_nibbles_shape,
    packed_steps_shape,
    quantize_nibbles,
)

SIZES = {"num_outputs": st.integers(1, 70), "num_inputs": st.integers(1, 140), "seed": st.integers(0, 2**32 - 1)}


def random_weight(num_outputs, num_inputs, seed):
    """Normal numbers; outputs differ in size by powers of two, and some are zero."""
    random = np.random.default_rng(seed)
    sizes = 2.0 ** random.integers(-30, 20, (num_outputs, 1)) * random.integers(0, 4, (num_outputs, 1)).clip(0, 1)
    return (random.normal(size=(num_outputs, num_inputs)) * sizes).astype(np.float32)


@given(**SIZES)
def test_every_code_and_step_stands_where_the_kernels_read_it(num_outputs, num_inputs, seed):
    weight = random_weight(num_outputs, num_inputs, seed)
    quantized, codes, steps = quantize_nibbles(weight), pack_nibbles(weight), pack_steps(weight)
    assert (codes.dtype, codes.shape) == (np.uint8, packed_nibbles_shape(num_outputs, num_inputs))
    assert (steps.dtype, steps.shape) == (np.float16, packed_steps_shape(num_outputs, num_inputs))
    padded = -(-num_inputs // 64) * 64
    expected, expected_steps = np.zeros(codes.size, np.uint8), np.zeros(steps.size, np.float16)
    for n in range(num_outputs):
        for k in range(num_inputs):
            place = ((n // 32 * (padded // 8) + k // 8) * 32 + n % 32) * 4 + k % 4
            expected[place] |= quantized.codes[n, k] << 4 * (k // 4 % 2)
            place = (n // 32 * (padded // 32) + k // 32) * 64 + n % 32
            expected_steps[place] = quantized.steps[n, k // 32]
            expected_steps[place + 32] = quantized.minima[n, k // 32]
    np.testing.assert_array_equal(codes.ravel(), expected)
    np.testing.assert_array_equal(steps.ravel(), expected_steps)


@given(**SIZES)
def test_a_number_is_off_by_half_a_step_of_its_groups_range(num_outputs, num_inputs, seed):
    weight = random_weight(num_outputs, num_inputs, seed)
    error = np.abs(quantize_nibbles(weight).values(num_inputs) - weight)
    scales = nibble_scales(weight)
    for start in range(0, num_inputs, 32):
        group = weight[:, start : start + 32]
        step = np.ptp(group, axis=1) / 15
        largest = np.abs(group).max(axis=1)
        # The range that is chosen has no larger squared error than the whole one: half a step for each of its numbers,
        # and what rounding minimum and step to float16 adds, also where it is subnormal.
        rounding = (largest + 15 * step) * 2.0**-11 + 16 * 2.0**-25 * scales
        bound = np.sqrt(32) * (0.5 * step + rounding)
        assert np.all(np.linalg.norm(error[:, start : start + 32], axis=1) <= bound * (1 + 1e-5))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 3.0])
def test_what_a_gguf_file_holds_in_4_bits_keeps_its_values(kind, size):
    random = np.random.default_rng(3)
    weight = (random.normal(size=(40, 96)) * size).astype(np.float32)
    weight[5, 32:64] = 0
    form = gguf.GGMLQuantizationType[kind]
    stored = gguf.dequantize(gguf.quantize(weight, form), form).reshape(weight.shape)
    np.testing.assert_array_equal(quantize_nibbles(stored).values(96), stored)


def test_a_narrower_range_is_taken_where_its_error_is_smaller():
    weight = np.random.default_rng(0).normal(size=(1000, 32)).astype(np.float32)
    least, step = weight.min(axis=1, keepdims=True), np.ptp(weight, axis=1, keepdims=True) / 15
    rounded = np.rint((weight - least) / step) * step + least
    of_whole_range = np.square(rounded - weight).sum(axis=1)
    found = np.square(quantize_nibbles(weight).values(32) - weight).sum(axis=1)
    assert np.mean(found < 0.99 * of_whole_range) > 0.3


def test_scales_are_powers_of_two_and_1_where_float16_holds_the_output():
    weight = np.array([[0.3, -0.7], [0, 0], [2.5, 1], [-(2.0**15), 3], [2.0**-140, 0]], np.float32)
    np.testing.assert_array_equal(nibble_scales(weight), np.array([1, 1, 1, 2.0**16, 2.0**-126], np.float32))
