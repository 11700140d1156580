"""Text of a user, from files and from standard input of any system."""

from __future__ import annotations

import io

import pytest

from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.text.user_text import read_text_file, standard_input

WRITTEN = [
    (b"", ""),
    ("Grüße\n日本\n".encode(), "Grüße\n日本\n"),
    (b"\xef\xbb\xbfa\r\nb\r\n", "a\nb\n"),
    (b"a\rb\n\rc", "a\nb\n\nc"),
    # A mark within a text is a character of it, and other line separators stay.
    ("a\ufeffb\u2028c\x0bd".encode(), "a\ufeffb\u2028c\x0bd"),
]


@pytest.mark.parametrize(("content", "text"), WRITTEN)
def test_a_file_of_any_system_is_the_same_text(tmp_path, content, text):
    (tmp_path / "text").write_bytes(content)
    assert read_text_file(tmp_path / "text", "the text") == text


@pytest.mark.parametrize(("content", "text"), WRITTEN)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_standard_input_of_any_system_is_the_same_text(monkeypatch, encoding, content, text):
    stream = io.TextIOWrapper(io.BytesIO(content), encoding=encoding, errors="surrogateescape", newline="\n")
    monkeypatch.setattr("sys.stdin", stream)
    assert standard_input().read() == text


def test_a_stand_in_for_standard_input_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("text"))
    assert standard_input().read() == "text"


@pytest.mark.parametrize("content", [b"\xff\xfea\x00", b"caf\xe9", None])
def test_a_file_that_is_no_text_is_an_input_error(tmp_path, content):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"^the text is no readable UTF-8 file: .*text'$"):
        read_text_file(path, "the text")


def test_standard_input_that_is_no_utf8_says_so(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="latin-1"))
    with pytest.raises(UnicodeError):
        standard_input().read()
