"""Errors are one line, and their advice can be told from their fault."""

from __future__ import annotations

import json

import pytest

from dovetail_ort_runtime.errors import BundleError, InputError, one_line, split_advice
from dovetail_ort_runtime.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("", ""),
        ("a\n  b\tc ", "a b c"),
        (ValueError("found\nthis"), "found this"),
        ("x" * 300, "x" * 300),
        ("first\n" + "x" * 1000 + "\nlast", "first " + "x" * 141 + " … " + "x" * 145 + " last"),
    ],
)
def test_a_reason_is_one_line_that_keeps_both_ends(said, line):
    assert one_line(said) == line
    assert len(line) <= 300


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ("stop must be text, got 1", ("stop must be text, got 1", None)),
        ("stop must be text, got 1; give text", ("stop must be text, got 1", "give text")),
        ("stop must be 'a; b', got 1; give text", ("stop must be 'a; b', got 1", "give text")),
    ],
)
def test_what_to_do_next_follows_the_last_semicolon(message, parts):
    assert split_advice(InputError(message)) == split_advice(message) == parts


def test_what_is_wrong_with_a_tokenizer_is_said_after_a_long_value(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "truncation": "x" * 1000, "model": {"type": "BPE"}}))
    with pytest.raises(BundleError, match=r" … x+\W*, expected struct TruncationParams at line 1 column \d+; export"):
        Tokenizer(path)
