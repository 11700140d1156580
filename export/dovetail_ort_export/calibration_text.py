"""The text that activations are measured on: the model's own, or a file of the user's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_export.export_options import LEAST_CALIBRATION_TOKENS
from dovetail_ort_export.self_written_text import write_conversations
from dovetail_ort_export.source import Source
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.errors import InputError

_LARGEST_BYTES: Final = 64 << 20
_TEXT_TOKENS: Final = 512


def calibration_texts(source: Source, path: Path | None, num_tokens: int, seed: int) -> list[TokenArray]:
    """Texts of `num_tokens` tokens together, fewer if the file ends earlier, each (T,) int64.

    Args:
        source: the model, which writes them if there is no file.
        path: UTF-8 text, or None.
        num_tokens: `LEAST_CALIBRATION_TOKENS` or more.
        seed: of the model's own writing.

    Raises:
        InputError: the file is not text, too large, or shorter than `LEAST_CALIBRATION_TOKENS` tokens.
    """
    texts = write_conversations(source, seed) if path is None else _pieces(source, path)
    return list(_limited(texts, num_tokens))


def _pieces(source: Source, path: Path) -> Iterator[TokenArray]:
    ids = source.tokenizer.encode(_read(path), add_special_tokens=False).ids
    if len(ids) < LEAST_CALIBRATION_TOKENS:
        raise InputError(
            f"the calibration text must have {LEAST_CALIBRATION_TOKENS} tokens or more, got {len(ids)} in "
            f"{str(path)!r}; give a longer file, or none, and the model writes its own"
        )
    size = min(_TEXT_TOKENS, int(source.model.config.max_position_embeddings))
    return (np.asarray(ids[start : start + size], dtype=np.int64) for start in range(0, len(ids), size))


def _read(path: Path) -> str:
    try:
        if (size := path.stat().st_size) > _LARGEST_BYTES:
            raise InputError(
                f"the calibration text must have {_LARGEST_BYTES >> 20} MB at most, got {size >> 20} MB in "
                f"{str(path)!r}; a part of it is enough"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the calibration text must be a readable UTF-8 file, got: {error}") from error
    if "\0" in text:
        raise InputError(f"the calibration text must be text, got NUL characters in {str(path)!r}")
    return text


def _limited(texts: Iterable[TokenArray], num_tokens: int) -> Iterator[TokenArray]:
    """The first `num_tokens` tokens."""
    left = num_tokens
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return
