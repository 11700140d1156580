"""The norm with its residual."""

from __future__ import annotations

import math

import numpy as np
import pytest
from product_calls import FLOAT, UNIT, open_node, run


def random_rows(seed, count, inputs):
    random = np.random.default_rng(seed)
    x = (random.standard_normal((count, inputs)) * 10.0 ** random.uniform(-2, 2, (count, 1))).astype(np.float32)
    skip = random.standard_normal((count, inputs)).astype(np.float32)
    weight = random.standard_normal(inputs).astype(np.float32)
    return x, skip, weight


@pytest.mark.parametrize("inputs", [1, 15, 16, 17, 64, 333, 576, 4096])
@pytest.mark.parametrize("has_skip", [False, True])
def test_a_norm_is_that_of_float64(inputs, has_skip):
    x, skip, weight = random_rows(inputs, 7, inputs)
    session = open_node("Norm", [FLOAT, weight, FLOAT if has_skip else None], ["y", "sum"], epsilon=1e-5)
    y, total = run(session, x, skip if has_skip else None)
    expected_total = x + skip if has_skip else x
    assert total.tobytes() == expected_total.tobytes()
    s = expected_total.astype(np.float64)
    expected = s / np.sqrt((s * s).mean(axis=1, keepdims=True) + 1e-5) * weight
    # One rounding of each fma of a lane and four of the tree, of which the root leaves half; the quotient, epsilon,
    # the root, the reciprocal and the two products have one each.
    roundings = (math.ceil(inputs / 16) + 4) / 2 + 6
    assert np.all(np.abs(y - expected) <= roundings * UNIT * np.abs(expected))


def test_the_sum_of_rows_can_be_left_out():
    x, skip, weight = random_rows(3, 5, 100)
    with_sum = open_node("Norm", [FLOAT, weight, FLOAT], ["y", "sum"], epsilon=1e-5)
    without_sum = open_node("Norm", [FLOAT, weight, FLOAT], ["y"], epsilon=1e-5)
    assert run(with_sum, x, skip)[0].tobytes() == run(without_sum, x, skip)[0].tobytes()


def test_a_rows_bits_do_not_depend_on_company_or_threads():
    x, skip, weight = random_rows(4, 40, 577)  # enough to be shared out
    session = open_node("Norm", [FLOAT, weight, FLOAT], ["y", "sum"], epsilon=1e-5)
    expected = run(session, x, skip)
    for i in range(40):
        for output, alone in zip(expected, run(session, x[i : i + 1], skip[i : i + 1]), strict=True):
            assert output[i].tobytes() == alone[0].tobytes()
    for threads in [2, 3, 8]:
        shared = run(open_node("Norm", [FLOAT, weight, FLOAT], ["y", "sum"], epsilon=1e-5, threads=threads), x, skip)
        assert [output.tobytes() for output in shared] == [output.tobytes() for output in expected]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_gives_nan_in_its_row_and_touches_no_other(value):
    x, _, weight = random_rows(5, 6, 50)
    session = open_node("Norm", [FLOAT, weight, None], ["y"], epsilon=1e-5)
    (expected,) = run(session, x)
    x[2, 30] = value
    (y,) = run(session, x)
    assert np.isnan(y[2, 30])
    others = np.arange(6) != 2
    assert y[others].tobytes() == expected[others].tobytes()
