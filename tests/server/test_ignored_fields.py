"""The header that names ignored fields, whatever strangers call theirs."""

from __future__ import annotations

import string
from urllib.parse import unquote

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail_ort.server.ignored_fields import HEADER, MOST_CHARACTERS, ignored_fields_headers

PLAIN = st.text(string.ascii_letters + string.digits + "_-.[]", min_size=1, max_size=20)


@given(st.lists(st.text(max_size=300), max_size=40))
def test_no_name_leaves_the_bounds_of_a_header(paths):
    value = ignored_fields_headers(paths).get(HEADER, "")
    assert len(value) <= MOST_CHARACTERS
    assert value.isascii()
    assert value.isprintable()
    assert bool(value) == bool(paths)
    assert httpx.Headers({HEADER: value})[HEADER] == value
    assert len(value.split(", ")) <= len(paths) or value == ""


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4))
def test_names_can_be_read_back(paths):
    assert [unquote(name) for name in ignored_fields_headers(paths)[HEADER].split(", ")] == paths


@given(st.lists(PLAIN, min_size=1, max_size=5))
def test_names_of_usual_characters_are_as_they_are(paths):
    assert ignored_fields_headers(paths)[HEADER] == ", ".join(paths)


def test_what_does_not_fit_is_counted():
    *names, rest = ignored_fields_headers([f"messages[{place}].foo" for place in range(1000)])[HEADER].split(", ")
    assert rest == f"{1000 - len(names)} more"
    assert names[0] == "messages[0].foo"


def test_a_lone_surrogate_is_no_failure():
    assert ignored_fields_headers(["\ud800"]) == {HEADER: "%3F"}


@settings(max_examples=20)
@given(st.dictionaries(st.text(max_size=90).map("x{}".format), st.integers(), min_size=1, max_size=5))
def test_the_server_names_them_whole_and_streamed(served, fields):
    for stream in (False, True):
        answer = served.chat(max_tokens=1, stream=stream, **fields)
        assert answer.status_code == 200
        assert answer.headers[HEADER] == ignored_fields_headers(list(fields))[HEADER]
    assert HEADER not in served.chat(max_tokens=1).headers


def test_a_strict_server_refuses_the_first_of_them(serving, model):
    with serving(model, strict=True) as strict:
        refused = strict.chat(foo=1, bar=2)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "foo"
        assert strict.chat(user="ann", n=1, max_tokens=1).status_code == 200
