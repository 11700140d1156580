"""The ratio that forgets, against sums written out."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime.drafting.decaying_ratio import DecayingRatio


def test_it_is_what_is_believed_before_anything_is_observed():
    assert DecayingRatio(0.4, weight=6.0).value == pytest.approx(0.4)


def test_a_belief_weighs_as_much_as_its_weight_in_observations():
    ratio = DecayingRatio(1.0, weight=4.0, half_life=1e12)
    for _ in range(4):
        ratio.add(0.0)
    assert ratio.value == pytest.approx(0.5)


def test_an_observation_counts_half_after_its_half_life():
    ratio = DecayingRatio(0.0, weight=1e-9, half_life=3)
    ratio.add(1.0)
    for _ in range(3):
        ratio.add(0.0, weight=0.0)
    ratio.add(0.0, weight=0.5)
    after = 0.5 ** (4 / 3)
    assert ratio.value == pytest.approx(after / (after + 0.5))


def test_both_sums_take_their_own_terms():
    ratio = DecayingRatio(2.0, weight=8.0, half_life=1e12)
    ratio.add(3.0, weight=12.0)
    assert ratio.value == pytest.approx((2.0 * 8.0 + 3.0) / (8.0 + 12.0))
