"""From a prompt to its token ids. It knows the tokenizer and the chat template, and no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.text.messages import Message, Prompt
from dovetail_ort_runtime.text.template_arguments import checked_template_arguments
from dovetail_ort_runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:  # Jinja loads slowly
    from dovetail_ort_runtime.text.chat_template import ChatTemplate


class PromptReader:
    """Makes token ids of text, of messages and of token ids.

    Args:
        tokenizer: tokenizer of the bundle.
        template: chat template that makes text of messages; None if the bundle has none.
        vocabulary_size: V of the target.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, vocabulary_size: int) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self._vocabulary_size = vocabulary_size

    def token_ids(self, prompt: Prompt, template_arguments: Mapping[str, Any] | None = None) -> list[int]:
        """Token ids of a prompt, at least one.

        Args:
            prompt: text, messages or token ids.
            template_arguments: values for the chat template, beside the messages.

        Raises:
            InputError: the prompt is empty, is something else, or has an id outside the vocabulary; or a template
                argument is malformed, or was given with a prompt that no template renders.
            ChatTemplateError: the chat template fails.
        """
        arguments = {} if template_arguments is None else checked_template_arguments(template_arguments)
        if arguments and not _is_conversation(prompt):
            raise InputError(
                f"template arguments need a prompt of messages; give messages, or leave out {', '.join(arguments)}"
            )
        token_ids = _checked_ids(self._found(prompt, arguments), self._vocabulary_size)
        if not token_ids:
            raise InputError("the prompt must have one token or more, got none")
        return token_ids

    def _found(self, prompt: Prompt, arguments: Mapping[str, Any]) -> object:
        """What should be token ids; a prompt that is neither text nor messages comes back as it is."""
        if _is_conversation(prompt):
            return self._conversation_ids(prompt, arguments)
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, add_special_tokens=True)
        return prompt

    def _conversation_ids(self, messages: Sequence[Message], arguments: Mapping[str, Any]) -> list[int]:
        if self.template is None:
            raise InputError("this bundle has no chat template; pass the prompt as text")
        text = self.template.render(messages, **arguments)
        return self.tokenizer.encode(text, add_special_tokens=False)


def _is_conversation(prompt: Prompt) -> TypeGuard[Sequence[Message]]:
    return isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], dict)


def _checked_ids(found: object, vocabulary_size: int) -> list[int]:
    try:
        array = np.asarray(found)
    except ValueError:
        array = np.empty(())  # lists of several lengths
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise InputError("the prompt must be text, a list of messages, or a list of token ids")
    if array.size and not 0 <= array.min() <= array.max() < vocabulary_size:
        raise InputError(
            f"token ids must be between 0 and {vocabulary_size - 1}, got {array.min()} to {array.max()}; "
            "were they made with another tokenizer?"
        )
    return [int(token_id) for token_id in array]
