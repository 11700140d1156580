"""The text on which a graph is compared with the model it came from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_export.source import Source
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.errors import InputError, SourceError

_MAX_TOKENS: Final = 512


def checked_tokens(source: Source, path: Path | None, max_context: int) -> TokenArray:
    """Tokens of the check text.

    Args:
        source: the model, for its tokenizer.
        path: a UTF-8 file, or None for the built-in text.
        max_context: of the export.

    Returns:
        (T,) int64, at most 512, and one fewer than the cache has slots: a single row at the end is padded to two.

    Raises:
        InputError: the file cannot be read, or is too short.
        SourceError: the tokenizer is another model's.
    """
    ids = source.tokenizer.encode(read_check_text(path), add_special_tokens=False).ids
    tokens = ids[: min(_MAX_TOKENS, max(max_context - 1, 2))]
    if len(tokens) < 2:
        raise InputError(f"the check text must have 2 tokens or more, got {len(tokens)}; give a longer file")
    if max(tokens) >= source.model.config.vocab_size:
        raise SourceError(
            f"the tokenizer's ids must be below the model's vocabulary of {source.model.config.vocab_size}, "
            f"got {max(tokens)}; the source has another model's tokenizer"
        )
    return np.asarray(tokens, dtype=np.int64)


def read_check_text(path: Path | None) -> str:
    """The text of a UTF-8 file, or the built-in one.

    Raises:
        InputError: it cannot be read.
    """
    resource = path or files("dovetail_ort_export") / "check_text.txt"
    try:
        return resource.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the check text must be a readable UTF-8 file, got: {error}") from error
