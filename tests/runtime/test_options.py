"""Options of an answer are within their bounds, or there are none."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime import GenerationOptions, InputError, SamplingOptions


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("repetition_penalty", 0.001, "between 0.01 and 100"),
        ("repetition_penalty", float("nan"), "between 0.01 and 100"),
        ("temperature", -0.1, "0 or more"),
        ("temperature", float("nan"), "0 or more"),
        ("top_k", -1, "0 or more"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.5, "above 0 and at most 1"),
        ("min_p", 1.1, "between 0 and 1"),
        ("seed", -1, "0 or more"),
    ],
)
def test_sampling_out_of_bounds_is_refused(name, value, rule):
    with pytest.raises(InputError, match=f"{name} must be {rule}, got {value}"):
        SamplingOptions(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_new_tokens", 0, "max_new_tokens must be 1 or more, got 0"),
        ("max_draft_tokens", -1, "max_draft_tokens must be 0 or more, got -1"),
        ("logprobs", 21, "logprobs must be between 0 and 20, got 21"),
        ("stop", "text", 'stop must be a sequence of strings, got the string "text"'),
        ("stop", ("",), "a stop string must be a string of one or more characters, got ''"),
    ],
)
def test_an_answers_options_out_of_bounds_are_refused(name, value, message):
    with pytest.raises(InputError, match=message):
        GenerationOptions(**{name: value})


def test_the_bounds_themselves_are_allowed():
    assert SamplingOptions(repetition_penalty=100, top_p=1, min_p=1, seed=0).is_greedy
    assert GenerationOptions(max_new_tokens=1, max_draft_tokens=0, logprobs=20).logprobs == 20
