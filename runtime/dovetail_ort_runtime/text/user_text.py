"""Text that users give in files and on standard input, from any operating system. It knows no prompt.

A byte order mark is left out, and every line ends with a line feed.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TextIO

from dovetail_ort_runtime.errors import InputError


def read_text_file(path: Path, what: str) -> str:
    """Contents of a UTF-8 file.

    Args:
        path: path of the file.
        what: name of the text in error messages, such as "the check text".

    Raises:
        InputError: the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{what} is no readable UTF-8 file: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is no readable UTF-8 file: {error} in {str(path)!r}") from error


def standard_input() -> TextIO:
    """Standard input as UTF-8. Call this before anything is read; reading other bytes raises UnicodeError."""
    if not sys.stdin.isatty():  # a terminal has an encoding of its own
        with contextlib.suppress(AttributeError):  # a stand-in for the stream
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict", newline=None)  # type: ignore[union-attr]
    return sys.stdin
