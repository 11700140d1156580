"""A chat template as token ids: the text that a model must read before it writes a user's turn or an answer.

It knows no target and no training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from dovetail_ort_runtime.errors import DovetailError
from dovetail_ort_runtime.text.chat_template import ChatTemplate
from dovetail_ort_runtime.text.messages import Message

_PLACEHOLDER: Final = "what the user says"

TokenIds = list[int]
Encode = Callable[[str], TokenIds]


class ChatTurns:
    """The turns of a conversation in a model's chat template, as token ids.

    Args:
        template: the model's chat template, or None.
        encode: function from text to token ids; it recognises special tokens and adds none.

    Attributes:
        opening: the template up to the user's words; empty if there is no template, or no such place in it.
    """

    def __init__(self, template: ChatTemplate | None, encode: Encode) -> None:
        self._template = template
        self._encode = encode
        self.opening = self._find_opening()

    def prompt(self, messages: Sequence[Message]) -> TokenIds:
        """A conversation up to the assistant's next words.

        Args:
            messages: turns of the conversation, oldest first.

        Raises:
            InputError: the template refuses the messages.
        """
        assert self._template is not None
        return self._encode(self._template.render(messages))

    def question(self, text: str) -> TokenIds:
        """A conversation in which the user says `text`, up to the assistant's first words."""
        return self.prompt([{"role": "user", "content": text.strip()}])

    def opened_with(self, text: str) -> TokenIds:
        """The template up to the user's words, and `text` as the first of these words."""
        return [*self.opening, *self._encode(text)]

    def _find_opening(self) -> TokenIds:
        if self._template is None:
            return []
        message: Message = {"role": "user", "content": _PLACEHOLDER}
        try:
            text = self._template.render([message], add_generation_prompt=False)
        except DovetailError:
            return []
        before, found, _ = text.partition(_PLACEHOLDER)
        return self._encode(before) if found else []
