"""Text of token ids that arrive one by one, and where in it each of them starts. It knows no model."""

from __future__ import annotations

from typing import Final

from dovetail_ort_runtime.text.tokenizer import BYTE_TOKEN, Tokenizer

_REPLACEMENT: Final = "\ufffd"
_CONTEXT_TOKENS: Final = 4
# Bytes that continue a character of UTF-8.
_FIRST_CONTINUATION: Final = b"\x80"
_LAST_CONTINUATION: Final = b"\xbf"


class TextStream:
    """Incremental decoding: all texts of `push` and that of `finish` together are `tokenizer.decode` of all ids.

    Each id is decoded together with the last few before it, and the text beyond theirs is new. Three things need care:

    - The bytes of a character may be spread over ids, so a U+FFFD at the end is held back. Four ids of context suffice,
      as a character has at most four bytes.
    - Some decoders drop the first space of a text. With context before it, a space within the text stays.
    - A token such as `<0xE2>` stands for one byte. Decoders turn a whole run of these into U+FFFD if one byte is wrong,
      so a run is held back until it ends.

    The tokenizers package has a DecodeStream, which has no `finish` and fails or differs on such runs.

    Args:
        tokenizer: tokenizer of the ids.
        skip_special_tokens: whether special tokens are left out, as in `decode`.

    Example with byte-level ids of "a€b", where two ids make the sign:

        push  a    -> "a"
        push  E282 -> ""     decodes to "a" U+FFFD
        push  AC   -> "€"
        push  b    -> "b"
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        self._window: list[int] = []
        self._num_decided = 0  # number of characters of the window's text that were returned

    def push(self, token_id: int) -> str:
        """Text that is certain once the next token id is known; empty while a character is incomplete."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._skipped:  # decodes to nothing and gives no context
            return ""
        self._window.append(token_id)
        if BYTE_TOKEN.fullmatch(token):
            return ""
        text = self._decode().removesuffix(_REPLACEMENT)[self._num_decided :]
        self._window = self._window[-_CONTEXT_TOKENS:]
        self._num_decided = len(self._decode().removesuffix(_REPLACEMENT))
        return text

    @property
    def held(self) -> str:
        """Text that is held back, with U+FFFD for incomplete characters, as if nothing followed."""
        return self._decode()[self._num_decided :]

    def finish(self) -> str:
        """Text that was held back. After this the stream is as new."""
        text = self.held
        self._window = []
        self._num_decided = 0
        return text

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=False)


class TokenOffsets:
    """Where the tokens of an answer start in its text, in characters from 0 on.

    A token that begins within a character starts where that character does. A token that is left out of the text starts
    where the next one does.

    Args:
        tokenizer: tokenizer of the ids.
        skip_special_tokens: whether the text leaves special tokens out.

    Example with byte-level ids of "a€b", where two ids make the sign:

        push  a    -> 0
        push  E282 -> 1
        push  AC   -> 1
        push  b    -> 2
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        self._stream = TextStream(tokenizer, skip_special_tokens=skip_special_tokens)
        self._num_decided = 0  # number of characters that the stream gave
        self._undecided = b""  # bytes that tokens added after these characters

    def push(self, token_id: int) -> int:
        """Offset of the next token."""
        written = b"" if token_id in self._skipped else self._tokenizer.token_bytes(token_id)
        offset = self._num_decided + self._characters_before(written[:1])
        text = self._stream.push(token_id)
        self._num_decided += len(text)
        self._undecided += written
        if not self._stream.held:
            self._undecided = b""
        elif text:
            self._undecided = _last_character(self._undecided)
        return offset

    def _characters_before(self, byte: bytes) -> int:
        """Undecided characters before the one that a token's first byte belongs to."""
        if _FIRST_CONTINUATION <= byte <= _LAST_CONTINUATION:
            return len(_text(self._undecided + byte)) - 1
        return len(self._stream.held)


def _text(written: bytes) -> str:
    return written.decode(errors="replace")


def _last_character(written: bytes) -> bytes:
    """Bytes of the last character, or of the part of one that is decoded as U+FFFD."""
    others = _text(written)[:-1]
    for length in range(1, len(written)):
        if _text(written[:-length]) == others:
            return written[-length:]
    return written
