import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dovetail_ort_export.row_quantization import output_scales, quantize_outputs

weights = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    elements=st.floats(-1e4, 1e4, width=32) | st.just(0.0),
)
TINY = np.finfo(np.float32).tiny


@given(weights)
def test_a_weight_is_off_by_half_a_step_of_its_output_at_most(weight):
    scales = output_scales(weight).astype(np.float64)
    error = np.abs(quantize_outputs(weight) * scales - weight.T)
    # Half a step, and the rounding of a quotient of up to 127 steps to float32: 127 * 2**-24 of a step.
    assert (error <= scales * (0.5 + 127 * 2.0**-24)).all()


@given(weights)
def test_the_largest_weight_of_an_output_takes_the_last_step(weight):
    largest = np.abs(weight).max(axis=1) / np.float32(127)
    # An output so small that its scale would have no full precision is zero.
    assert (np.abs(quantize_outputs(weight).astype(int)).max(axis=0) == np.where(largest >= TINY, 127, 0)).all()


def test_inputs_come_first_and_lie_in_one_piece():
    steps = quantize_outputs(np.ones((3, 5), dtype=np.float32))
    assert steps.shape == (5, 3)
    assert steps.dtype == np.int8
    assert steps.flags.c_contiguous
