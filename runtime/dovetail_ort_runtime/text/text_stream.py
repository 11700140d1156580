"""Text of token ids that arrive one by one, and where in it each of them starts. It knows no model."""

from __future__ import annotations

from typing import Final

from dovetail_ort_runtime.text.tokenizer import BYTE_TOKEN, Tokenizer

_REPLACEMENT: Final = "\ufffd"
_CONTEXT_TOKENS: Final = 4
# Bytes that go on with a character of UTF-8.
_FIRST_CONTINUATION: Final = b"\x80"
_LAST_CONTINUATION: Final = b"\xbf"


class TextStream:
    """Incremental decoding: what `push` returned and `finish` is `tokenizer.decode` of all ids, bit for bit.

    Args:
        tokenizer: of the ids.
        skip_special_tokens: whether special tokens are left out, as in `decode`.

    The last few ids are decoded together with the new one; what is longer than their own text is new. This keeps it
    exact:

    - A character's bytes may be spread over ids, so a last U+FFFD is held back. Four ids of context suffice, as a
      character has at most four bytes.
    - Context also keeps decoders that treat the start of a text apart (they drop its first space) from doing so within.
    - `<0xE2>` is a byte that such decoders judge by its whole run: one bad byte turns all of it into U+FFFD. A run is
      held back until it ends.

    tokenizers' own DecodeStream has no `finish`, and fails or differs on such runs.

    Example, byte-level ids of "a€b", the sign in two of them:

        push  a    -> "a"
        push  E282 -> ""     decodes to "a" U+FFFD
        push  AC   -> "€"
        push  b    -> "b"
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        self._window: list[int] = []
        self._num_decided = 0  # characters of the window's text that were returned

    def push(self, token_id: int) -> str:
        """Text that the next token id decides; empty while a character is incomplete."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._skipped:  # decodes to nothing, gives no context
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
        """Text that is held back, as it is if nothing follows: incomplete characters as U+FFFD."""
        return self._decode()[self._num_decided :]

    def finish(self) -> str:
        """The text that was held back; the stream is as new."""
        text = self.held
        self._window, self._num_decided = [], 0
        return text

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=False)


class TokenOffsets:
    """Where tokens start in the text of their answer, in characters from 0 on.

    A token that begins with a part of a character starts where that character does. One that is left out of the text
    starts where the next one does.

    Args:
        tokenizer: of the ids.
        skip_special_tokens: whether the text leaves special tokens out.

    Example, byte-level ids of "a€b", the sign in two of them:

        push  a    -> 0
        push  E282 -> 1
        push  AC   -> 1
        push  b    -> 2
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        self._stream = TextStream(tokenizer, skip_special_tokens=skip_special_tokens)
        self._num_decided = 0  # characters that the stream gave
        self._undecided = b""  # what the tokens wrote behind them

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
    lengths = range(1, len(written))
    return written[-next((length for length in lengths if _text(written[:-length]) == others), len(written)) :]
