"""The projection for the paper's size rests on this: tokens a round of tree sizes that the paper does not report."""

import pytest
import scaled_lengths
from hypothesis import given
from hypothesis import strategies as st

SIZES = (2, 4, 6, 8, 12, 16)


def test_the_published_size_comes_out_as_published():
    scaled = scaled_lengths.scale_lengths({2: 1.5, 8: 2.5, 16: 2.9}, 16, 5.9)
    # The bisection ends within a 60th power of two of the factor's range.
    assert scaled[16].tokens == pytest.approx(5.9, abs=1e-9)


def test_odds_are_multiplied_by_one_factor():
    scaled = scaled_lengths.scale_lengths({2: 1.5, 4: 2.1}, 4, 3.1)
    first, later = scaled[2].tokens - 1, (scaled[4].tokens - scaled[2].tokens) / 2
    assert first / (1 - first) == pytest.approx(later / (1 - later) / (0.3 / 0.7))
    assert first == pytest.approx(0.81, abs=0.005)


def test_a_curve_that_is_the_papers_stays_as_it_is():
    measured = {2: 1.8, 4: 3.0, 16: 5.9}
    scaled = scaled_lengths.scale_lengths(measured, 16, 5.9)
    assert {rows: length.tokens for rows, length in scaled.items()} == pytest.approx(measured)


@given(st.lists(st.floats(0.01, 0.99), min_size=len(SIZES), max_size=len(SIZES)), st.floats(1.5, 15.5))
def test_estimates_lie_within_the_limits_that_falling_chances_set(chances, published):
    measured, rows, tokens = {}, 1, 1.0
    for size, chance in zip(SIZES, sorted(chances, reverse=True), strict=True):
        tokens += (size - rows) * chance
        measured[size] = tokens
        rows = size
    for size, length in scaled_lengths.scale_lengths(measured, 16, published).items():
        assert length.least - 1e-6 <= length.tokens <= length.most + 1e-6, size
