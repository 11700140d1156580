"""What a prompt may be, and its token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.text.template_arguments import checked_template_arguments
from dovetail_ort_runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from dovetail_ort_runtime.text.chat_template import ChatTemplate


class Message(TypedDict):
    """One turn of a conversation; what else it holds reaches the template as it is.

    Attributes:
        role: "system", "user", "assistant" or "tool" to most templates.
        content: what is said; None or missing only where there are `tool_calls`.
        reasoning_content: what an assistant thought before it said so.
        tool_calls: calls that an assistant asked for.
        tool_call_id: call that a tool's message answers.
        name: of the speaker or the tool.
    """

    role: str
    content: NotRequired[str | None]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[Sequence[Mapping[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


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

    def token_ids(self, prompt: Prompt, template_arguments: Mapping[str, Any] | None = None) -> list[int]:
        """One id or more.

        Args:
            prompt: text, messages or token ids.
            template_arguments: what the chat template of messages is given beside them.

        Raises:
            InputError: the prompt is empty, not of these kinds, or has an id outside the vocabulary; or an argument is
                malformed, or goes with a prompt that no template renders.
        """
        arguments = {} if template_arguments is None else checked_template_arguments(template_arguments)
        found: object = prompt
        if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], dict):
            found = self._conversation_ids(prompt, arguments)  # type: ignore[arg-type]
        elif arguments:
            raise InputError(
                f"template arguments must go with messages, got {next(iter(arguments))} with another prompt; "
                "give messages, or leave the arguments out"
            )
        elif isinstance(prompt, str):
            found = self.tokenizer.encode(prompt, add_special_tokens=True)
        token_ids = _checked_ids(found, self._vocabulary_size)
        if not token_ids:
            raise InputError("the prompt must have one token or more, got none")
        return token_ids

    def _conversation_ids(self, messages: Sequence[Message], arguments: Mapping[str, Any]) -> list[int]:
        if self.template is None:
            raise InputError("messages must go through a chat template, got a bundle without one; give text instead")
        text = self.template.render(messages, **arguments)
        return self.tokenizer.encode(text, add_special_tokens=False)


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
