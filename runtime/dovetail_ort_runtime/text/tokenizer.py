"""Text to token ids and back, as the bundle's `tokenizer.json` says. It knows no model."""

from __future__ import annotations

import base64
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
from dovetail_ort_runtime.errors import BundleError, DovetailError, InputError, one_line

# How many times as long a step may make a text. The longest replacement of Unicode has 18 characters, that of
# sentencepiece's table 33 bytes.
LARGEST_GROWTH: Final = 256
# A token that stands for one byte, in sentencepiece's vocabularies.
BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SHOWN_CHARACTERS: Final = 20  # on each side of a fault
# Parts of a file that change a text, and the keys under which one of them holds a sequence of steps.
_CHANGING_PARTS: Final = ("normalizer", "pre_tokenizer", "decoder")
_SEQUENCES: Final = ("normalizers", "pretokenizers", "decoders", "processors")


class Tokenizer:
    """A tokenizer, read from a `tokenizer.json` of the tokenizers package.

    Args:
        path: path of the file.

    Raises:
        BundleError: the file is missing or damaged, or makes texts grow beyond measure. Encoding and decoding raise it
            too, where the file makes the tokenizers package fail.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._tokenizer, self._decoders = _read(self._path)
        # A file may carry the settings of its last training run.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Token ids of a text; a special token that is spelt out in it becomes its single id.

        Args:
            text: text, which may be empty.
            add_special_tokens: whether to add the tokens that the post-processor puts around a text, such as a begin
                token; False for a rendered chat template, which writes its own.

        Raises:
            InputError: `text` holds a lone surrogate, which no encoding can carry.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            first_shown = max(error.start - _SHOWN_CHARACTERS, 0)
            there = text[first_shown : error.start + _SHOWN_CHARACTERS]
            raise InputError(
                f"text must be a string without lone surrogates, got {there!a}; read the input as UTF-8"
            ) from None
        with tokenizer_failures(self._path):
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int] | TokenArray, skip_special_tokens: bool = True) -> str:
        """Text of (n,) token ids. An id without a token adds nothing, and bytes that are not UTF-8 become U+FFFD."""
        numbers = [int(token_id) for token_id in ids]
        with tokenizer_failures(self._path):
            return str(self._tokenizer.decode(numbers, skip_special_tokens=skip_special_tokens))

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes that a token adds after other tokens; they may be a part of a character.

        Special tokens add their spelling, and an id without a token adds nothing. The bytes of several ids together are
        the text of all, except for spaces that some decoders drop at its start.
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
        """Text that a token adds after other tokens; a part of a character becomes U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")

    def _text_behind_itself(self, token_id: int) -> str:
        once = self.decode([token_id], skip_special_tokens=False)
        twice = self.decode([token_id, token_id], skip_special_tokens=False)
        if not twice.startswith(once):
            return once
        added = twice.removeprefix(once)
        return added or once  # a decoder that merges equal tokens gives the same text for both

    @cached_property
    def vocabulary_size(self) -> int:
        """One more than the highest id; a model's V may be larger, for padding."""
        return max(self.vocabulary().values(), default=-1) + 1

    @cached_property
    def special_token_ids(self) -> frozenset[int]:
        """Ids of the special tokens, which `decode` can skip."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    def vocabulary(self) -> dict[str, int]:
        """Ids by token, including added tokens."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def to_json(self) -> str:
        """Text of a `tokenizer.json` for this tokenizer."""
        return str(self._tokenizer.to_str())

    def token_to_id(self, token: str) -> int | None:
        """Id of a token in the vocabulary's spelling, or None."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def id_to_token(self, token_id: int) -> str | None:
        """Token of an id >= 0 in the vocabulary's spelling, or None."""
        found: str | None = self._tokenizer.id_to_token(token_id)
        return found


def _read(path: Path) -> tuple[tokenizers.Tokenizer, tuple[str, ...]]:
    """The tokenizer, and the kinds of its decoder's steps."""
    if not path.is_file():
        raise BundleError(f"there is no tokenizer at {path}; export the model again")
    content = path.read_bytes()
    with tokenizer_failures(path):
        decoders = _decoders(_checked(content).get("decoder"))
        return tokenizers.Tokenizer.from_buffer(content), decoders


@contextmanager
def tokenizer_failures(
    path: Path, error: type[DovetailError] = BundleError, *, advice: str = "export the model again"
) -> Iterator[None]:
    """Turn what the tokenizers package raises into an error that names the file.

    Args:
        path: file of the tokenizer.
        error: class of the error.
        advice: what to do next.

    Raises:
        BundleError: the tokenizers package fails within the block; or `error`, if that is another class.
    """
    try:
        yield
    except BaseException as failure:
        # A panic of Rust is no `Exception`, and its class can only be recognised by its name.
        if not isinstance(failure, Exception) and type(failure).__name__ != "PanicException":
            raise
        raise error(
            f"{path} must be a tokenizer of the tokenizers package, got {one_line(failure)}; {advice}"
        ) from None


def _checked(content: bytes) -> dict[str, Any]:
    """The JSON object of a file, if no step of it makes a text more than `LARGEST_GROWTH` times as long.

    A normalizer may replace each character by many, and the next one each of these. A prompt would then grow beyond all
    memory, or already a special token while the file is read.

    Raises:
        ValueError: it is no such object; the text says what it is.
    """
    try:
        contents: Any = json.loads(content, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(contents, dict):
        raise ValueError(f"a JSON {type(contents).__name__}")
    for name in _CHANGING_PARTS:
        growth = _growth(contents.get(name))
        if growth > LARGEST_GROWTH:
            raise ValueError(f"a {name} that makes a text {growth} times as long")
    return contents


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # the tokenizers package might take the other value
        raise ValueError("a JSON object with a key twice")
    return found


def _decoders(step: Any) -> tuple[str, ...]:
    """Kinds of the steps of a decoder, in order; a sequence gives those within it."""
    if not isinstance(step, Mapping):
        return ()
    steps = step.get("decoders")
    if step.get("type") != "Sequence" or not isinstance(steps, list):
        return (str(step.get("type")),)
    kinds: list[str] = []
    for inner in steps:
        kinds += _decoders(inner)
    return tuple(kinds)


def _growth(step: Any) -> int:
    """How many times as long a step may make a text, at most."""
    if not isinstance(step, Mapping):
        return 1
    growth = 1
    for name in _SEQUENCES:
        steps = step.get(name)
        if isinstance(steps, list):
            growth *= math.prod(map(_growth, steps))
    charsmap = step.get("precompiled_charsmap")
    if isinstance(charsmap, str):
        growth *= 1 + _longest_replacement(charsmap)
    content = step.get("content")
    if isinstance(content, str):
        growth *= _growth_by_content(content, step.get("pattern"))
    return growth


def _growth_by_content(content: str, pattern: Any) -> int:
    """How many times as long a text gets if each match of a pattern becomes `content`.

    A literal pattern stands for one character at least. A regular expression may match nothing, and without a pattern
    the content is put before the text: both keep the character that was there.
    """
    is_literal = isinstance(pattern, Mapping) and pattern.get("String")
    return max(1, len(content) if is_literal else len(content) + 1)


def _longest_replacement(charsmap: str) -> int:
    """Bytes of the longest text in sentencepiece's table: a trie's size in four bytes, the trie, then the texts."""
    table = base64.b64decode(charsmap)
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    return max(map(len, texts.split(b"\0")))


def _bytes_by_character() -> dict[str, int]:
    """Bytes by the characters that stand for them in byte-level tokens, as in GPT-2: a printable byte is itself."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    by_character = {chr(byte): byte for byte in printable}
    for place, byte in enumerate(others):
        by_character[chr(0x100 + place)] = byte
    return by_character


_BYTES: Final = _bytes_by_character()
