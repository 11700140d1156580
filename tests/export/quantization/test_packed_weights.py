"""Packed weights against the formula of the layout, written out index by index."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_export.quantization.packed_weights import (
    pack_codes,
    pack_factors,
    packed_factors_shape,
    packed_shape,
    unpack_codes,
    unpack_weight,
)
from dovetail_ort_export.quantization.scales import group_factors, output_scales


def place(n, k, num_inputs):
    """Where the code of output n and input k stands, as kernels.h has it."""
    padded = -(-num_inputs // 64) * 64
    return ((n // 32 * (padded // 4) + k // 4) * 32 + n % 32) * 4 + k % 4


def place_of_factor(n, k, num_inputs):
    """Where the factor of output n and input k stands."""
    return (n // 32 * -(-num_inputs // 64) + k // 64) * 32 + n % 32


def oracle(weight, group):
    """Every code put at its place, one by one."""
    factors = group_factors(weight).astype(np.float32)
    num_outputs, num_inputs = weight.shape
    packed = np.full(-(-num_outputs // 32) * 32 * -(-num_inputs // 64) * 64, 128, dtype=np.uint8)
    for n, row in enumerate(weight):
        largest = np.abs(row).max() / np.float32(127)
        scale = largest if largest >= np.finfo(np.float32).tiny else np.float32(1)
        for k, value in enumerate(row):
            steps = value / scale / factors[n, k // 64] if group else value / scale
            packed[place(n, k, num_inputs)] = int(np.rint(steps)) + 128
    return packed


SIZES = {"num_outputs": st.integers(1, 70), "num_inputs": st.integers(1, 140), "seed": st.integers(0, 2**32 - 1)}


def random_weight(num_outputs, num_inputs, seed):
    """Normal numbers; inputs differ in size by powers of two, and some are zero."""
    random = np.random.default_rng(seed)
    sizes = 2.0 ** random.integers(-18, 1, num_inputs) * random.integers(0, 4, num_inputs).clip(0, 1)
    return (random.normal(size=(num_outputs, num_inputs)) * sizes).astype(np.float32)


@given(**SIZES, group=st.sampled_from([64, 0]))
def test_every_code_stands_where_the_kernels_read_it(num_outputs, num_inputs, seed, group):
    weight = random_weight(num_outputs, num_inputs, seed)
    packed = pack_codes(weight, group=group)
    assert packed.dtype == np.uint8
    assert packed.shape == packed_shape(num_outputs, num_inputs)
    np.testing.assert_array_equal(packed.ravel(), oracle(weight, group))


@given(**SIZES)
def test_every_factor_stands_where_the_kernels_read_it(num_outputs, num_inputs, seed):
    weight = random_weight(num_outputs, num_inputs, seed)
    packed, factors = pack_factors(weight), group_factors(weight)
    assert packed.dtype == np.float16
    assert packed.shape == packed_factors_shape(num_outputs, num_inputs)
    expected = np.ones(packed.size, np.float16)
    for n in range(num_outputs):
        for k in range(num_inputs):
            expected[place_of_factor(n, k, num_inputs)] = factors[n, k // 64]
    np.testing.assert_array_equal(packed.ravel(), expected)


@given(**SIZES)
def test_a_number_is_off_by_half_a_step_of_its_group(num_outputs, num_inputs, seed):
    weight = random_weight(num_outputs, num_inputs, seed)
    scales, factors = output_scales(weight), group_factors(weight).astype(np.float32)
    unpacked = unpack_weight(pack_codes(weight), scales, num_inputs, pack_factors(weight))
    steps = scales[:, None] * np.repeat(factors, 64, axis=1)[:, :num_inputs]
    # Two divisions round before the nearest step is taken, each by 2^-24 of at most 127 steps.
    assert (np.abs(unpacked - weight) <= steps * (0.5 + 1e-4)).all()


@given(num_outputs=st.integers(1, 70), num_inputs=st.integers(1, 140), seed=st.integers(0, 2**32 - 1))
def test_unpacking_gives_the_codes_back(num_outputs, num_inputs, seed):
    weight = np.random.default_rng(seed).normal(size=(num_outputs, num_inputs)).astype(np.float32)
    codes = unpack_codes(pack_codes(weight, group=0), num_outputs, num_inputs)
    scales = output_scales(weight)
    np.testing.assert_array_equal(codes, np.rint(weight / scales[:, None]).astype(np.int16) + 128)


@pytest.mark.parametrize("num_outputs", [1023, 1024, 1025, 2100])
def test_portions_of_rows_leave_no_seam(num_outputs):
    weight = np.random.default_rng(4).normal(size=(num_outputs, 68)).astype(np.float32)
    packed, scales = pack_codes(weight, group=0), output_scales(weight)
    for n in (0, 1022, num_outputs - 1):
        for k in (0, 67):
            assert packed.ravel()[place(n, k, 68)] == np.rint(weight[n, k] / scales[n]) + 128
    unpacked = unpack_weight(packed, scales, 68)
    # A number is rounded to the nearest of steps that are a scale apart; the division rounds once more.
    assert (np.abs(unpacked - weight) <= scales[:, None] * (0.5 + 1e-5)).all()
    in_groups = unpack_weight(pack_codes(weight), scales, 68, pack_factors(weight))
    assert (np.abs(in_groups - weight) <= scales[:, None] * (0.5 + 1e-4)).all()
    assert np.abs(in_groups - weight).mean() < np.abs(unpacked - weight).mean()


@pytest.mark.parametrize("value", [0.0, 1e-45])
def test_a_weight_of_nothing_packs_as_nothing(value):
    weight = np.full((3, 5), value, dtype=np.float32)
    assert (pack_codes(weight) == 128).all()
    assert (pack_factors(weight) == 1).all()
    assert not unpack_weight(pack_codes(weight), output_scales(weight), 5, pack_factors(weight)).any()


def test_packing_holds_no_second_copy_of_a_large_weight():
    weight = np.ones((1 << 15, 256), dtype=np.float32)
    tracemalloc.start()
    packed = pack_codes(weight)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The codes are a quarter of the numbers; portions of 1,024 rows take a few megabytes beside them.
    assert peak < packed.nbytes + weight.nbytes // 4
