"""Stop strings in a stream are found as a search of the whole text finds them."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.text.stop_strings import StopStrings


def streamed(stops, pieces):
    """Text that passes, and the stop string that ended it."""
    search = StopStrings(stops)
    passed = ""
    for piece in pieces:
        text, stopped = search.push(piece)
        passed += text
        assert stopped == (search.matched is not None)
    return passed + search.finish(), search.matched


def searched(stops, text):
    """The same by searching the whole text: the earliest start, then the earliest end."""
    found = [(text.find(stop), len(stop), stop) for stop in stops if stop in text]
    start, _, stop = min(found, default=(len(text), 0, None))
    return text[:start], stop


# Two letters and short pieces make matches, overlaps and near misses frequent.
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("ab", max_size=4), max_size=10),
)
@example(["abb", "b"], ["ab", "a"])
@example(["aab", "aaab"], ["a", "a", "a", "b"])
def test_any_cutting_gives_what_a_search_of_the_whole_text_gives(stops, pieces):
    assert streamed(stops, pieces) == searched(stops, "".join(pieces))


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.text("abc", max_size=20))
def test_only_what_may_become_a_stop_string_is_held_back(stops, text):
    search = StopStrings(stops)
    passed, stopped = search.push(text)
    held = text[len(passed) :]
    assert stopped or held == "" or any(stop.startswith(held) or stop in held for stop in stops)
    assert stopped or len(held) < max(map(len, stops))


def test_text_without_a_stop_string_passes_at_once():
    search = StopStrings(["END"])
    assert search.push("The cat") == ("The cat", False)


def test_the_beginning_of_a_stop_string_is_held_until_it_is_ruled_out():
    search = StopStrings(["END"])
    assert [search.push("sum E"), search.push("N"), search.push("Q")] == [("sum ", False), ("", False), ("ENQ", False)]


def test_what_is_held_at_the_end_is_released():
    search = StopStrings(["END"])
    assert search.push("EN") == ("", False)
    assert search.finish() == "EN"
    assert search.finish() == ""


def test_nothing_passes_after_a_stop_string():
    search = StopStrings(["\n\n"])
    assert search.push("a\n\nb") == ("a", True)
    assert search.push("c") == ("", True)
    assert search.finish() == ""
    assert search.matched == "\n\n"


def test_the_stop_string_that_starts_earliest_wins():
    assert streamed(["dog", "cat"], ["the cat", " and the dog"]) == ("the ", "cat")


def test_of_stop_strings_that_start_together_the_first_to_complete_wins():
    assert streamed(["<|end|>", "<|"], ["a<|end|>"]) == ("a", "<|")


def test_a_stop_string_inside_another_waits_until_the_other_is_ruled_out():
    assert streamed(["abc", "b"], ["xab", "c"]) == ("x", "abc")
    assert streamed(["abc", "b"], ["xab", "d"]) == ("xa", "b")
    assert streamed(["abc", "b"], ["xab"]) == ("xa", "b")


def test_without_stop_strings_all_text_passes():
    assert streamed([], ["a", "", "b"]) == ("ab", None)


@pytest.mark.parametrize("stops", [[""], ["a", ""], [None], "END"])
def test_stop_strings_must_be_a_sequence_of_strings_with_characters(stops):
    with pytest.raises(InputError, match="must be"):
        StopStrings(stops)


# Hidden pieces are in brackets: they are searched as all text is, and only what is shown passes.
@given(
    st.lists(st.text("ab[]", min_size=1, max_size=4), max_size=3),
    st.lists(st.one_of(st.text("ab", max_size=3), st.sampled_from(["[a]", "[]"])), max_size=10),
)
@example(["a[", "]b"], ["a", "[a]", "b"])
def test_hidden_text_is_searched_and_never_passes(stops, pieces):
    search = StopStrings(stops)
    passed = "".join(search.push(piece, hidden=piece.startswith("["))[0] for piece in pieces) + search.finish()
    before, matched = searched(stops, "".join(pieces))
    assert search.matched == matched
    assert passed == re.sub(r"\[a?\]?", "", before)
