"""Token ids become text one at a time. It knows no stop strings and no model."""

from __future__ import annotations

import re

from dovetail_ort_runtime.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
CONTEXT_TOKENS = 4


class TextStream:
    """Incremental decoding: what `push` returned so far plus `finish` is `tokenizer.decode` of all ids, bit for bit.

    The last few ids are decoded together with the new one; what is longer than their own text is new. Three things
    keep this exact, at a cost per id that does not grow with the text:

    - A character's bytes may be spread over ids, so a last U+FFFD is held back. Four ids of context suffice: a
      character has at most four bytes, so what an earlier id left open is closed by then.
    - Context also keeps decoders that treat the start of a text apart (they drop its first space) from doing so within.
    - `<0xE2>` is a byte that such decoders judge by its whole run: one bad byte turns all of the run into U+FFFD. A run
      is held back until it ends.

    tokenizers' own DecodeStream keeps no text for `finish`, and fails or differs on such runs.

    Example, byte-level ids of "a€b", the sign in two of them:

        push  a    -> "a"
        push  E282 -> ""     decodes to "a" U+FFFD
        push  AC   -> "€"
        push  b    -> "b"
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset[int]()
        self._window: list[int] = []
        self._num_decided = 0  # characters of the window's text that were returned

    def push(self, token_id: int) -> str:
        """Text that is decided by the next token id; empty while a character is incomplete."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._skipped:  # decodes to nothing, gives no context
            return ""
        self._window.append(token_id)
        if BYTE_TOKEN.fullmatch(token):
            return ""
        text = self._decided(self._window)[self._num_decided :]
        self._window = self._window[-CONTEXT_TOKENS:]
        self._num_decided = len(self._decided(self._window))
        return text

    def finish(self) -> str:
        """Text that was held back, incomplete characters as U+FFFD; the stream is empty again."""
        text = self._decode(self._window)[self._num_decided :]
        self._window, self._num_decided = [], 0
        return text

    def _decided(self, ids: list[int]) -> str:
        return self._decode(ids).removesuffix(REPLACEMENT)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
