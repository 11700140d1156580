"""A conversation as the one text that a chat model was trained on. It knows no token ids.

Templates are rendered as transformers renders them (`apply_chat_template`): the same Jinja environment, filters and
functions. They come with a model, so they run in Jinja's sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn, TypedDict

import jinja2
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls  # noqa: N812  # jinja2 names this class as a module
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dovetail_ort_runtime.errors import BundleError, InputError


class Message(TypedDict):
    """One turn of a conversation.

    Attributes:
        role: who speaks; templates know "system", "user" and "assistant".
        content: what is said.
    """

    role: str
    content: str


class ChatTemplate:
    """A Jinja chat template with the special tokens that it may name.

    Args:
        source: the template's text, `chat_template.jinja` of a model.
        special_tokens: names that the template may use, such as `bos_token` and `eos_token`, and their text.

    Raises:
        BundleError: `source` is not a template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise BundleError(
                f"the chat template must be valid Jinja, got {_one_line(error)} in line {error.lineno}; "
                "export the model again with a template that works"
            ) from None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as text, to be encoded without adding special tokens.

        Args:
            messages: one or more turns, oldest first; keys beside role and content reach the template too.
            add_generation_prompt: whether to end with the opening of the assistant's next turn.

        Raises:
            InputError: `messages` is malformed, or the template refuses it (two user turns in a row, say).
            BundleError: the template fails, or tries what the sandbox forbids.
        """
        names: dict[str, Any] = {
            **self._special_tokens,
            "messages": _checked(messages),
            "add_generation_prompt": add_generation_prompt,
            # None, not undefined: templates test both
            "tools": None,
            "documents": None,
        }
        try:
            return self._template.render(names)
        except _RefusalError as error:
            raise InputError(
                f"messages must be what the chat template accepts, got its refusal: {_one_line(error)}"
            ) from None
        except Exception as error:  # a template can raise whatever its expressions raise
            raise BundleError(
                f"the chat template must render the conversation, got {type(error).__name__}: {_one_line(error)}; "
                "export the model again with a template that works"
            ) from None


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise InputError(f"messages must be a sequence of messages, got {type(messages).__name__}")
    if not messages:
        raise InputError("messages must hold at least one message, got none; add a user message")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(f"message {index} must be a mapping with role and content, got {type(message).__name__}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                got = type(message[key]).__name__ if key in message else "none"
                raise InputError(f"{key} of message {index} must be a string, got {got}")
    return [dict(message) for message in messages]


class _RefusalError(jinja2.TemplateError):
    """The template called `raise_exception`."""


class _GenerationBlock(Extension):
    """`{% generation %} ... {% endgeneration %}`, which marks the assistant's text for training; here it marks none."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, LoopControls]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise _RefusalError(message)


def _strftime_now(date_format: str) -> str:
    return datetime.now().strftime(date_format)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
