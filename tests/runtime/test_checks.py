"""Which values the checks refuse, and by which name."""

from __future__ import annotations

import math

import pytest

from dovetail_ort_runtime.checks import must_be, must_be_at_least, must_be_between, must_be_one_of, parse_bytes
from dovetail_ort_runtime.errors import BundleError, InputError


@pytest.mark.parametrize("value", [1, 5.5, math.inf, None])
def test_a_number_that_is_large_enough_or_not_given_passes(value):
    must_be_at_least("threads", value, 1)


@pytest.mark.parametrize("value", [0, 0.99, -math.inf, math.nan])
def test_a_number_that_is_too_small_is_refused_with_its_name(value):
    with pytest.raises(InputError, match=rf"^threads must be 1 or more, got {value}$"):
        must_be_at_least("threads", value, 1)


@pytest.mark.parametrize(("value", "passes"), [(0, True), (1, True), (None, True), (-0.1, False), (math.nan, False)])
def test_both_bounds_belong_to_what_lies_between_them(value, passes):
    if passes:
        must_be_between("min_p", value, 0, 1)
    else:
        with pytest.raises(InputError, match="min_p must be between 0 and 1, got"):
            must_be_between("min_p", value, 0, 1)


def test_a_choice_is_refused_with_all_that_there_are():
    must_be_one_of("cache", "fp16", ("fp16", "fp32"))
    with pytest.raises(InputError, match=r"^cache must be one of fp16, fp32, got 'int8'$"):
        must_be_one_of("cache", "int8", ("fp16", "fp32"))


def test_an_error_has_the_class_and_the_advice_that_the_caller_gives():
    with pytest.raises(BundleError, match=r"^top_p must be above 0, got 0; export the bundle again$"):
        must_be("top_p", "above 0", 0, holds=False, advice="export the bundle again", error=BundleError)


@pytest.mark.parametrize(
    ("text", "number"),
    [("3GB", 3 * 10**9), ("512MiB", 512 * 2**20), ("2e9", 2 * 10**9), ("1.5 g", 1_500_000_000), ("100", 100)],
)
def test_sizes_are_read_as_people_write_them(text, number):
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "GB", "-3GB", "0", "3TB", "1.2.3GB", "1e999", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="a size must be a number of bytes above 0"):
        parse_bytes(text)
