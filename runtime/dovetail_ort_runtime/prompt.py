"""What a prompt may be, and its token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from dovetail_ort_runtime.chat_template import ChatTemplate


class Message(TypedDict):
    """One turn of a conversation.

    Attributes:
        role: "system", "user" or "assistant" to most templates.
        content: what is said.
    """

    role: str
    content: str


Prompt = str | Sequence[Message] | Sequence[int]


class PromptReader:
    """Makes token ids of text, of messages and of token ids.

    Args:
        tokenizer: the bundle's.
        template: turns messages into text; without one they are refused.
        vocabulary_size: V of the target.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, vocabulary_size: int) -> None:
        self.tokenizer, self.template = tokenizer, template
        self._vocabulary_size = vocabulary_size

    def token_ids(self, prompt: Prompt) -> list[int]:
        """One id or more.

        Raises:
            InputError: the prompt is empty, not of these kinds, or has an id outside the vocabulary.
        """
        found: object = prompt
        if isinstance(prompt, str):
            found = self.tokenizer.encode(prompt, add_special_tokens=True)
        elif isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], dict):
            found = self._conversation_ids(prompt)  # type: ignore[arg-type]
        token_ids = _checked_ids(found, self._vocabulary_size)
        if not token_ids:
            raise InputError("the prompt must have one token or more, got none")
        return token_ids

    def _conversation_ids(self, messages: Sequence[Message]) -> list[int]:
        if self.template is None:
            raise InputError("messages must go through a chat template, got a bundle without one; give text instead")
        return self.tokenizer.encode(self.template.render(messages), add_special_tokens=False)


def _checked_ids(prompt: object, vocabulary_size: int) -> list[int]:
    try:
        array = np.asarray(prompt)
    except ValueError:
        array = np.empty(())  # lists of several lengths
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise InputError("the prompt must be text, a list of messages, or a list of token ids; got something else")
    if array.size and not 0 <= array.min() <= array.max() < vocabulary_size:
        raise InputError(
            f"token ids must be between 0 and {vocabulary_size - 1}, got {array.min()} to {array.max()}; "
            "were they made with another tokenizer?"
        )
    return [int(token_id) for token_id in array]
