"""Text of an answer, token by token, up to a stop string. It knows no model."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from dovetail_ort_runtime.text.stop_strings import StopStrings
from dovetail_ort_runtime.text.text_stream import TextStream
from dovetail_ort_runtime.text.tokenizer import Tokenizer


class AnswerText:
    """Decodes the tokens of an answer and searches them for stop strings.

    Stop strings see the spelling of special tokens, even where the text leaves these out.

    Args:
        tokenizer: tokenizer of the answer.
        eos_token_ids: tokens that end the answer; they are left out like special tokens.
        stop: strings that end the answer.
        skip_special_tokens: whether the text leaves out special tokens; if not, it is `decode` of all ids.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, eos_token_ids: frozenset[int], stop: Sequence[str], skip_special_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._stream = TextStream(tokenizer, skip_special_tokens=skip_special_tokens)
        self._stops = StopStrings(stop)
        self._hidden_ids = eos_token_ids | tokenizer.special_token_ids if skip_special_tokens else frozenset()
        # Hidden tokens in or after text that is held back: number of its characters before each, and its spelling.
        self._hidden: list[tuple[int, str]] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the text."""
        return self._stops.matched is not None

    def push(self, token_id: int) -> str:
        """Text that is certain once the next token is known."""
        if token_id in self._hidden_ids:
            return self._hide(self._tokenizer.token_text(token_id))
        text = self._stream.push(token_id)
        return self._decided(text) if text else ""

    def finish(self) -> str:
        """Text that was held back. No token follows."""
        return self._decided(self._stream.finish()) + self._stops.finish()

    def _hide(self, spelling: str) -> str:
        held = self._stream.held
        if not held:
            return self._stops.push(spelling, hidden=True)[0]
        self._hidden.append((len(held), spelling))
        # Tokens that follow may still change the held text, but not if the answer ends here.
        _, stopped = self._searched(copy.copy(self._stops), held)
        if not stopped:
            return ""
        return self._decided(self._stream.finish())

    def _decided(self, text: str) -> str:
        passed, _ = self._searched(self._stops, text)
        self._hidden.clear()
        return passed

    def _searched(self, stops: StopStrings, text: str) -> tuple[str, bool]:
        """What passes of a text with the hidden tokens in it, and whether a stop string was completed."""
        passed = ""
        start = 0
        for place, spelling in self._hidden:
            passed += stops.push(text[start:place])[0]
            passed += stops.push(spelling, hidden=True)[0]
            start = place
        last, stopped = stops.push(text[start:])
        return passed + last, stopped
