"""Scales of outputs and factors of groups against their definitions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dovetail_ort_export.quantization.scales import group_factors, output_scales

TINY = np.finfo(np.float32).tiny
ROW_WEIGHTS = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    elements=st.floats(-1e4, 1e4, width=32) | st.just(0.0),
)


@given(ROW_WEIGHTS)
def test_the_scale_of_an_output_is_its_largest_weight_over_127(weight):
    largest = np.abs(weight).max(axis=1) / np.float32(127)
    # An output so small that its scale would have no full precision is zero.
    np.testing.assert_array_equal(output_scales(weight), np.where(largest >= TINY, largest, np.float32(1)))


@given(npst.arrays(np.float32, (3, 150), elements=st.floats(-1e4, 1e4, width=32) | st.just(0.0), fill=st.just(0.0)))
def test_the_factor_of_a_group_is_its_share_of_the_output_rounded_up(weight):
    factors = group_factors(weight).astype(np.float64)
    below = np.nextafter(group_factors(weight), np.float16(0)).astype(np.float64)
    smallest = np.finfo(np.float16).tiny
    assert factors.shape == (3, 3)
    of_output = np.abs(weight).max(axis=1)
    for (n, group), factor in np.ndenumerate(factors):
        of_group = np.abs(weight[n, group * 64 : group * 64 + 64]).max()
        if of_group == 0 or of_output[n] / np.float32(127) < TINY:
            assert factor == 1
            continue
        share = np.float64(of_group) / np.float64(of_output[n])
        assert max(share, smallest) <= factor <= 1
        assert below[n, group] < share or factor == smallest
