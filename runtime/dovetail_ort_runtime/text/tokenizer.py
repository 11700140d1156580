"""Text to token ids and back, as the bundle's `tokenizer.json` says. It knows no model."""

from __future__ import annotations

import base64
import gc
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import tokenizers

from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.errors import BundleError, InputError, one_line

# Unicode's own longest replacement has 18 characters; sentencepiece's table of them has 33 bytes.
LARGEST_GROWTH: Final = 256
# A byte of a sentencepiece vocabulary, written for what no other token covers.
BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SHOWN_CHARACTERS: Final = 20  # on each side of a fault
_STEPS: Final = ("normalizers", "pretokenizers", "decoders", "processors")


class Tokenizer:
    """A tokenizer, read from a `tokenizer.json` of the tokenizers package.

    Raises:
        BundleError: the file is missing or damaged, or makes texts grow beyond measure; from encoding and decoding,
            where it leads the tokenizers package into a failure.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._tokenizer, self._decoders = _read(self._path)
        # A file may carry the settings of its last training run.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`; special tokens that stand in it become their single ids.

        Args:
            text: also empty.
            add_special_tokens: whether to add what the post-processor puts around a text, such as a begin token; False
                for a rendered chat template, which writes its own.

        Raises:
            InputError: `text` holds a lone surrogate, which no encoding can carry.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            there = text[max(error.start - _SHOWN_CHARACTERS, 0) : error.start + _SHOWN_CHARACTERS]
            raise InputError(
                f"text must be a string without lone surrogates, got {there!a}; read the input as UTF-8"
            ) from None
        with _failures_named(self._path):
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int] | TokenArray, skip_special_tokens: bool = True) -> str:
        """Text of (n,) token ids; those without a token add nothing, bytes that are not UTF-8 become U+FFFD."""
        numbers = [int(token_id) for token_id in ids]
        with _failures_named(self._path):
            return str(self._tokenizer.decode(numbers, skip_special_tokens=skip_special_tokens))

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 that a token writes behind other tokens, special tokens as they are spelt; parts of a character too.

        Those of several ids put together are the text of all, but for spaces that decoders drop at its start. An id
        without a token writes nothing.
        """
        token = self.id_to_token(token_id)
        if token is None:
            return b""
        if self._decoders[:1] == ("ByteLevel",) and _BYTES.keys() >= set(token):
            return bytes(_BYTES[character] for character in token)
        byte = BYTE_TOKEN.fullmatch(token)
        if byte and "ByteFallback" in self._decoders:
            return bytes.fromhex(byte[1])
        return self._text_behind_itself(token_id).encode()

    def token_text(self, token_id: int) -> str:
        """The same as text; a byte that is only a part of a character becomes U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")

    def _text_behind_itself(self, token_id: int) -> str:
        once, twice = (self.decode([token_id] * times, skip_special_tokens=False) for times in (1, 2))
        # A decoder that merges equal tokens gives the same for both.
        return (twice.removeprefix(once) or once) if twice.startswith(once) else once

    @cached_property
    def vocabulary_size(self) -> int:
        """One more than the highest id; a model's V may be padded beyond it."""
        return max(self.vocabulary().values(), default=-1) + 1

    @cached_property
    def special_token_ids(self) -> frozenset[int]:
        """Ids that `decode` skips."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    def vocabulary(self) -> dict[str, int]:
        """Ids by token, added tokens included."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def to_json(self) -> str:
        """Text of a `tokenizer.json` that reads back as this tokenizer."""
        return str(self._tokenizer.to_str())

    def token_to_id(self, token: str) -> int | None:
        """Id of a token as the vocabulary spells it, if there is one."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def id_to_token(self, token_id: int) -> str | None:
        """Token of an id >= 0 as the vocabulary spells it, if there is one."""
        found: str | None = self._tokenizer.id_to_token(token_id)
        return found


def _read(path: Path) -> tuple[tokenizers.Tokenizer, tuple[str, ...]]:
    """The tokenizer, and the kinds of its decoder's steps."""
    if not path.is_file():
        raise BundleError(f"a bundle must hold a tokenizer, got no file {path}; export the model again")
    content = path.read_bytes()
    with _failures_named(path):
        decoders = _decoders(_checked(content))
        gc.collect()  # Python keeps freed pairs of the vocabulary in pages that only this gives back
        return tokenizers.Tokenizer.from_buffer(content), decoders


@contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    """Turn what the tokenizers package raises into an error of the file."""
    try:
        yield
    except BaseException as error:
        # A panic is no `Exception`, and Python knows its class only once there was one.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BundleError(
            f"{path} must be a tokenizer of the tokenizers package, got {one_line(error)}; export the model again"
        ) from None


def _checked(content: bytes) -> Any:
    """Decoder of a file; ValueError for one whose steps together make a text more than `LARGEST_GROWTH` times as long.

    A normalizer may replace each character by many, and the next one each of these, until a prompt, or a special token
    when the file is read, grows beyond all memory.
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
    return contents.get("decoder")


def _decoders(step: Any) -> tuple[str, ...]:
    """Kinds of the steps of a decoder, those of a sequence one by one."""
    if not isinstance(step, Mapping):
        return ()
    if step.get("type") == "Sequence" and isinstance(step.get("decoders"), list):
        return tuple(kind for inner in step["decoders"] for kind in _decoders(inner))
    return (str(step.get("type")),)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # the other reader might take the other one
        raise ValueError("a JSON object with a key twice")
    return found


def _growth(step: Any) -> int:
    """How much longer a step may make a text."""
    if not isinstance(step, Mapping):
        return 1
    inner = math.prod(_growth(item) for name in _STEPS if isinstance(items := step.get(name), list) for item in items)
    if isinstance(step.get("precompiled_charsmap"), str):
        inner *= 1 + _longest_replacement(step["precompiled_charsmap"])
    if isinstance(step.get("content"), str):  # before a text, or in the place of what a pattern finds, be it nothing
        by_character = isinstance(step.get("pattern"), Mapping) and step["pattern"].get("String")
        inner *= max(1, len(step["content"]) + (not by_character))
    return inner


def _longest_replacement(charsmap: str) -> int:
    """Bytes of the longest text in sentencepiece's table: four bytes of a size, a trie of that size, texts."""
    table = base64.b64decode(charsmap)
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    return max(map(len, texts.split(b"\0")))


def _bytes_by_character() -> dict[str, int]:
    """Bytes by the characters that byte-level tokens write for them (GPT-2): printable ones as themselves."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTES: Final = _bytes_by_character()
