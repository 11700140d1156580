"""Text that users give in files and on standard input, whatever system wrote it. It knows no prompt.

A byte order mark is no part of it, and each line ends with a line feed.
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
        path: of the file.
        what: subject of an error's sentence, such as "the check text".

    Raises:
        InputError: the file cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{what} must be a readable UTF-8 file, got: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} must be a readable UTF-8 file, got: {error} in {str(path)!r}") from error


def standard_input() -> TextIO:
    """Standard input, to be asked for before anything is read from it; it raises UnicodeError for what is no UTF-8."""
    if not sys.stdin.isatty():  # a terminal has an encoding of its own
        with contextlib.suppress(AttributeError):  # a stand-in for the stream
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict", newline=None)  # type: ignore[union-attr]
    return sys.stdin
