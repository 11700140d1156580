"""Where in a conversation whose words stand, as token ids: what a model must be given to write either side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from dovetail_ort_runtime.errors import DovetailError
from dovetail_ort_runtime.text.chat_template import ChatTemplate
from dovetail_ort_runtime.text.prompt import Message

_PLACEHOLDER: Final = "what the user says"

TokenIds = list[int]
Encode = Callable[[str], TokenIds]


class Turns:
    """A model's chat template, seen from the side of the tokens.

    Args:
        template: of the model, or None.
        encode: text to token ids, special tokens recognised and none added.

    Attributes:
        opening: the template up to where the user's words stand; empty if there is no template or no such place.
    """

    def __init__(self, template: ChatTemplate | None, encode: Encode) -> None:
        self._template = template
        self._encode = encode
        self.opening = self._find_opening()

    def prompt(self, messages: Sequence[Message]) -> TokenIds:
        """A conversation up to where the assistant's words stand.

        Raises:
            InputError: the template refuses the messages.
        """
        assert self._template is not None
        return self._encode(self._template.render(messages))

    def question(self, text: str) -> TokenIds:
        """A conversation that the user opens with `text`, up to where the assistant's words stand."""
        return self.prompt([{"role": "user", "content": text.strip()}])

    def opened_with(self, text: str) -> TokenIds:
        """The template up to where the user's words stand, and the first of them."""
        return [*self.opening, *self._encode(text)]

    def _find_opening(self) -> TokenIds:
        if self._template is None:
            return []
        try:
            text = self._template.render([{"role": "user", "content": _PLACEHOLDER}], add_generation_prompt=False)
        except DovetailError:
            return []
        return self._encode(text[: text.index(_PLACEHOLDER)]) if _PLACEHOLDER in text else []
