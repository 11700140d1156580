"""What a `tokenizer.json` may make of a text, checked before the tokenizers package reads the file.

A normalizer may replace each character by many, and another one each of these again, so that a prompt, or a special
token when the file is read, grows beyond all memory. It knows no vocabulary.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any, Final

# Unicode's own longest replacement has 18 characters; sentencepiece's table of them has 33 bytes.
LARGEST_GROWTH: Final = 256
_STEPS: Final = ("normalizers", "pretokenizers", "decoders", "processors")


def check_tokenizer(content: bytes) -> None:
    """Refuse a tokenizer whose steps together make a text more than `LARGEST_GROWTH` times as long.

    Raises:
        ValueError: that, or the content is not a JSON object with each key once.
    """
    try:
        contents: Any = json.loads(content, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(contents, dict):
        raise ValueError(f"a JSON {type(contents).__name__}")
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        if (growth := _growth(contents.get(name))) > LARGEST_GROWTH:
            raise ValueError(f"a {name} that makes a text {growth} times as long")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # the other reader might take the other one
        raise ValueError("a JSON object with a key twice")
    return found


def _growth(step: Any) -> int:
    """How much longer a step may make a text; steps after one another multiply."""
    if not isinstance(step, Mapping):
        return 1
    inner = math.prod(_growth(item) for name in _STEPS for item in _items(step.get(name)))
    if isinstance(step.get("precompiled_charsmap"), str):
        inner *= 1 + _longest_replacement(step["precompiled_charsmap"])
    if isinstance(step.get("content"), str):  # before a text, or in the place of what a pattern finds, be it nothing
        by_character = isinstance(step.get("pattern"), Mapping) and step["pattern"].get("String")
        inner *= max(1, len(step["content"]) + (not by_character))
    return inner


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _longest_replacement(charsmap: str) -> int:
    """Bytes of the longest text in sentencepiece's table: four bytes of a size, a trie of that size, texts."""
    table = base64.b64decode(charsmap)
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    return max(map(len, texts.split(b"\0")))
