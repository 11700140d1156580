"""Text of an answer up to a stop string, token by token. It knows no model."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from dovetail_ort_runtime.text.stop_strings import StopStrings
from dovetail_ort_runtime.text.text_stream import TextStream
from dovetail_ort_runtime.text.tokenizer import Tokenizer


class AnswerText:
    """Decodes and searches: stop strings see special tokens as they are spelt, also those that the text leaves out.

    Args:
        tokenizer: of the answer.
        eos_token_ids: tokens that end it, left out like special tokens.
        stop: strings that end it.
        skip_special_tokens: whether the text leaves these tokens out; if not, it is `decode` of all ids.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, eos_token_ids: frozenset[int], stop: Sequence[str], skip_special_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._stream = TextStream(tokenizer, skip_special_tokens=skip_special_tokens)
        self._stops = StopStrings(stop)
        self._hidden_ids = eos_token_ids | tokenizer.special_token_ids if skip_special_tokens else frozenset()
        # Hidden tokens that stand within or behind text that is held back: its characters before them, their spelling.
        self._hidden: list[tuple[int, str]] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the text."""
        return self._stops.matched is not None

    def push(self, token_id: int) -> str:
        """Text that the next token decides."""
        if token_id in self._hidden_ids:
            return self._hide(self._tokenizer.token_text(token_id))
        text = self._stream.push(token_id)
        return self._decided(text) if text else ""

    def finish(self) -> str:
        """Text that was held back, for no token follows."""
        return self._decided(self._stream.finish()) + self._stops.finish()

    def _hide(self, spelling: str) -> str:
        held = self._stream.held
        if not held:
            return self._stops.push(spelling, hidden=True)[0]
        self._hidden.append((len(held), spelling))
        # What follows may still change the held text, but not if the answer ends here.
        if not self._searched(copy.copy(self._stops), held)[1]:
            return ""
        return self._decided(self._stream.finish())

    def _decided(self, text: str) -> str:
        passed, _ = self._searched(self._stops, text)
        self._hidden.clear()
        return passed

    def _searched(self, stops: StopStrings, text: str) -> tuple[str, bool]:
        """What passes of a text with the hidden tokens in it, and whether a stop string was completed."""
        passed, start = "", 0
        for place, spelling in self._hidden:
            passed += stops.push(text[start:place])[0]
            passed += stops.push(spelling, hidden=True)[0]
            start = place
        last, stopped = stops.push(text[start:])
        return passed + last, stopped
