"""The text on which a bundle is compared with its model. It knows no torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.text.user_text import read_text_file

if TYPE_CHECKING:  # it needs torch
    from dovetail_ort_export.source import Source

_MAX_TOKENS: Final = 512


def checked_tokens(source: Source, path: Path | None, max_context: int) -> TokenArray:
    """Tokens of the check text.

    Args:
        source: model whose tokenizer reads the text.
        path: UTF-8 file, or None for the built-in text.
        max_context: largest number of tokens of prompt and answer.

    Returns:
        (T,) int64, at most 512, and one fewer than the context has room for; two at least.

    Raises:
        InputError: the file cannot be read, or is too short.
    """
    ids = source.text.tokenizer.encode(read_check_text(path), add_special_tokens=False).ids
    most = min(_MAX_TOKENS, max(max_context - 1, 2))
    tokens = ids[:most]
    if len(tokens) < 2:
        raise InputError(f"the check text must have 2 tokens or more, got {len(tokens)}; give a longer file")
    return np.asarray(tokens, dtype=np.int64)


def read_check_text(path: Path | None) -> str:
    """The text of a UTF-8 file, or the built-in one if `path` is None.

    Raises:
        InputError: the file cannot be read.
    """
    if path is not None:
        return read_text_file(path, "the check text")
    return (files("dovetail_ort_export.checking") / "check_text.txt").read_text(encoding="utf-8")
