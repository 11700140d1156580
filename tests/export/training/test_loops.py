"""Loops in a text."""

from __future__ import annotations

import pytest

from dovetail_ort_export.training.loops import loop_start


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ([1, 2, 3] * 3, None),  # nine tokens are a refrain, not a loop
        ([7, 8, *([1, 2, 3] * 8)], 5),
        ([5] * 24, 1),
        ([5] * 23, None),
        (list(range(30)), None),
        ([*range(20), *range(20), *range(20)], 20),
        ([*range(40), *range(40), *range(40)], None),  # the period is too long
    ],
)
def test_the_second_repetition_of_a_loop_is_found(text, expected):
    assert loop_start(text) == expected
