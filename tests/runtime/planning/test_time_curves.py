"""Curves between their points and beyond."""

from __future__ import annotations

import dataclasses

import pytest

from dovetail_ort_runtime.errors import InputError


@pytest.mark.parametrize(
    ("num_rows", "context", "ms"),
    [
        (2, 100, 6.0),
        (3, 100, 7.0),
        (3, 200, 8.5),
        (1, 0, 5.0),  # no less is known of a shorter context
        (6, 100, 10.0),  # on along the last stretch
        (2, 400, 9.0),
        (6, 400, 19.0),
    ],
)
def test_a_forward_costs_what_its_neighbours_say(num_rows, context, ms, some_curves):
    assert some_curves.verify(num_rows, context) == pytest.approx(ms)


def test_a_chain_costs_its_first_token_and_the_steps_after_it(some_curves):
    assert some_curves.draft(0, 5) == 0
    assert some_curves.draft(1, 2) == pytest.approx(0.6)
    assert some_curves.draft(4, 5) == pytest.approx(0.9 + 3 * 0.25)


def test_a_tree_costs_what_its_first_path_does_and_the_branches_beside_it(some_curves):
    assert some_curves.draft(4, 5, num_branches=6) == pytest.approx(0.9 + 3 * 0.25 + 6 * 0.05)


def test_a_curve_that_falls_is_not_followed_below_its_end(some_curves):
    falling = dataclasses.replace(some_curves, verify_ms=((5.0, 6.0, 5.5), (7.0, 8.0, 7.5)))
    assert falling.verify(8, 100) == 5.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contexts": (300, 100)}, "contexts must be one or more ascending numbers"),
        ({"verify_rows": ()}, "verify_rows must be one or more ascending numbers"),
        ({"verify_ms": ((5.0, 6.0, 8.0),)}, "verify_ms must have a time for each"),
        ({"verify_ms": ((5.0, 6.0), (7.0, 8.0))}, "verify_ms must have a time for each"),
        ({"catch_up_ms": (0.5,)}, "catch_up_ms must have a time for each"),
        ({"step_ms": float("nan")}, "times must be finite numbers of 0 or more"),
        ({"branch_ms": -0.1}, "times must be finite numbers of 0 or more"),
        ({"catch_up_ms": (0.5, -1.0)}, "times must be finite numbers of 0 or more"),
    ],
)
def test_curves_that_are_none_are_refused(changes, message, some_curves):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(some_curves, **changes)
