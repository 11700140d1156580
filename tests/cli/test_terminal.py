"""What is printed fits the terminal and the shell that it is printed for."""

from __future__ import annotations

import shlex
import sys

import pytest

from dovetail_ort.cli import terminal


def test_a_message_is_one_line(capsys):
    terminal.tell("one\n  two\tthree")
    assert capsys.readouterr().err == "one two three\n"


@pytest.mark.parametrize("text", ["smollm2", "a bundle", "it's", "$HOME"])
def test_a_quoted_argument_is_read_back_by_the_shell(text, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert shlex.split(terminal.quoted(text)) == [text]


def test_a_path_is_quoted_for_windows_with_its_backslashes(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert terminal.quoted("C:\\my bundles\\smollm2") == '"C:\\my bundles\\smollm2"'


@pytest.mark.parametrize(
    ("is_terminal", "forbidden", "coloured"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_colours_are_for_terminals_that_do_not_forbid_them(monkeypatch, is_terminal, forbidden, coloured):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if forbidden:
        monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.shows_colours() == coloured
