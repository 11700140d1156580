"""Prompts spread over a suite."""

from __future__ import annotations

import pytest

from benchmarks.prompt_sets import GENERAL, TUNING, spread
from dovetail_ort.suites import load_suite


@pytest.mark.parametrize(("count", "expected"), [(None, range(40)), (4, (0, 10, 20, 30)), (100, range(40))])
def test_prompts_are_spread_evenly_over_a_suite(count, expected):
    prompts = load_suite(GENERAL)
    assert spread(GENERAL, count) == [prompts[number] for number in expected]


def test_no_prompt_is_for_tuning_and_for_measuring():
    tuning, general = ({str(prompt.messages) for prompt in load_suite(suite)} for suite in (TUNING, GENERAL))
    assert not tuning & general
