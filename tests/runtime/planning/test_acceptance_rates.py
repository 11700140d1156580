"""What is believed of copies and of a model's drafts, and how observations change it."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime.planning.acceptance_rates import LONGEST_MATCH, AcceptanceRates


def test_a_longer_match_is_believed_more_before_anything_is_observed():
    rates = AcceptanceRates()
    shares = [rates.copied_right(match) for match in range(1, LONGEST_MATCH + 1)]
    assert shares == sorted(set(shares))
    assert all(0 < share < 1 for share in shares)


def test_a_copy_teaches_of_matches_of_its_length_alone():
    rates = AcceptanceRates()
    before = [rates.copied_right(match) for match in range(1, LONGEST_MATCH + 1)]
    rates.copied(3, drafted=5, accepted=0)
    after = [rates.copied_right(match) for match in range(1, LONGEST_MATCH + 1)]
    changed = [match for match, (old, new) in enumerate(zip(before, after, strict=True), 1) if old != new]
    assert changed == [3]
    assert after[2] < before[2]


def test_copied_tokens_after_the_first_wrong_one_teach_nothing():
    short, long = AcceptanceRates(), AcceptanceRates()
    short.copied(2, drafted=3, accepted=2)
    long.copied(2, drafted=12, accepted=2)
    assert short.copied_right(2) == long.copied_right(2)


def test_a_copy_that_is_right_to_its_end_has_no_wrong_token():
    rates = AcceptanceRates()
    for _ in range(200):
        rates.copied(2, drafted=3, accepted=3)
    assert rates.copied_right(2) == pytest.approx(1, abs=0.02)


def test_the_gain_of_a_model_is_learned_for_each_length_of_match():
    rates = AcceptanceRates()
    untouched = rates.model_gain(1)
    for _ in range(200):
        rates.modelled(0, promises=[0.5], accepted=0, gain=-0.3)
    assert rates.model_gain(0) == pytest.approx(-0.3, abs=0.02)
    assert rates.model_gain(1) == untouched


def test_promises_of_the_first_token_and_of_further_ones_are_learned_apart():
    rates = AcceptanceRates()
    assert [rates.kept(depth) for depth in (1, 2, 3)] == [1, 1, 1]
    for _ in range(400):
        # The first token comes as often as promised, the second one half as often.
        rates.modelled(0, promises=[1.0, 1.0], accepted=2, gain=0.0)
        rates.modelled(0, promises=[1.0, 1.0], accepted=1, gain=0.0)
    assert rates.kept(1) == pytest.approx(1)
    assert rates.kept(2) == pytest.approx(0.5, abs=0.02)
    assert rates.kept(3) == pytest.approx(rates.kept(2) ** 2)


def test_a_model_is_never_believed_to_be_always_wrong():
    rates = AcceptanceRates()
    for _ in range(1000):
        rates.modelled(0, promises=[0.9], accepted=0, gain=0.0)
    assert rates.kept(1) == 0.05
