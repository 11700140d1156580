"""A conversation as the text that a chat model was trained on. It knows no token ids.

Templates are rendered with the Jinja settings and functions of transformers (`apply_chat_template`). They come with a
model, and nobody has read them, so they run in a sandbox with limits of time, work and output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls  # noqa: N812  # jinja2 names this class as a module
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.utils import pass_environment

from dovetail_ort_runtime.errors import BundleError, ChatTemplateError, InputError, one_line
from dovetail_ort_runtime.text.messages import Message
from dovetail_ort_runtime.text.template_arguments import DEEPEST_VALUE, checked_template_arguments, is_json
from dovetail_ort_runtime.text.template_budget import TemplateBudget, TemplateLimitError, spending
from dovetail_ort_runtime.text.template_sandbox import TemplateSandbox

LARGEST_TEMPLATE: Final = 1 << 18
_LONGEST_DATE_FORMAT: Final = 100
_WIDEST_INDENT: Final = 16


class ChatTemplate:
    """A Jinja chat template, with the special tokens that it may name.

    Args:
        source: text of a model's `chat_template.jinja`.
        special_tokens: text of special tokens by name, such as `bos_token` and `eos_token`.

    Raises:
        BundleError: `source` is no template, has more than `LARGEST_TEMPLATE` characters, or uses a filter that the
            sandbox does not have.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        if len(source) > LARGEST_TEMPLATE:
            raise BundleError(
                f"the chat template must have {LARGEST_TEMPLATE} characters at most, got {len(source)}; "
                "do not use this bundle"
            )
        self._special_tokens = dict(special_tokens)
        self._knows_tool_calls = "tool_calls" in source
        try:
            self._template = _sandbox().from_string(source)
        except Exception as error:  # a syntax error, or Python's own for deep nesting and long numbers
            place = f" in line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise BundleError(
                f"the chat template is not valid Jinja: {one_line(error)}{place}; "
                "export the model again with a template that works"
            ) from None

    def render(
        self, messages: Sequence[Message], /, add_generation_prompt: bool = True, **template_arguments: Any
    ) -> str:
        """The conversation as text, to be encoded without adding special tokens.

        Args:
            messages: messages, oldest first; keys beside role and content reach the template too. `content` may be None
                or missing where there are `tool_calls`; a template that does not know tool calls sees empty text.
            add_generation_prompt: whether to end with the opening of the assistant's next turn.
            template_arguments: values that the template may use, such as `enable_thinking`, `tools` or `documents`,
                within the bounds of `checked_template_arguments`.

        Raises:
            InputError: `messages` or an argument is malformed, or the template refuses it, such as two user turns in a
                row.
            ChatTemplateError: the template fails, tries what the sandbox forbids, or exceeds its budget.
        """
        arguments = self._checked_arguments(template_arguments)
        names = arguments | {"messages": self._read(messages), "add_generation_prompt": add_generation_prompt}
        budget = TemplateBudget((messages, template_arguments, self._special_tokens))
        try:
            with spending(budget):
                return self._rendered(names, budget.max_characters)
        except _RefusalError as error:
            raise InputError(f"the chat template refuses these messages: {one_line(error)}") from None
        except TemplateLimitError as error:
            raise ChatTemplateError(
                f"the chat template must {one_line(error)}; give it less, or do not use this bundle"
            ) from None
        except Exception as error:  # whatever the template's expressions raise
            raise ChatTemplateError(
                f"the chat template fails on this conversation: {type(error).__name__}: {one_line(error)}; "
                "give it other messages or arguments, or export the model again with a template that works"
            ) from None

    def _checked_arguments(self, template_arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Template arguments and special tokens by name."""
        taken = (*self._special_tokens, *self._template.globals)
        return {
            # None and not undefined: templates test both.
            "tools": None,
            "documents": None,
            **checked_template_arguments(template_arguments, taken),
            **self._special_tokens,
        }

    def _read(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        found = _checked(messages)
        if not self._knows_tool_calls:
            for message in found:
                if message.get("content") is None:  # such a template would write "None", or fail
                    message["content"] = ""
        return found

    def _rendered(self, names: Mapping[str, Any], max_characters: int) -> str:
        pieces = []
        left = max_characters
        for piece in self._template.generate(names):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                raise TemplateLimitError(f"write {max_characters} characters at most, got more")
        return "".join(pieces)


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise InputError(f"messages must be a sequence of messages, got {type(messages).__name__}")
    if not messages:
        raise InputError("messages must hold at least one message, got none; add a user message")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(f"message {index} must be a mapping with role and content, got {type(message).__name__}")
        _check_message(index, message)
    return [dict(message) for message in messages]


def _check_message(index: int, message: Mapping[str, Any]) -> None:
    for key in ("role", "content"):
        if key == "content" and message.get("tool_calls") and message.get("content") is None:
            continue
        if not isinstance(message.get(key), str):
            got = type(message[key]).__name__ if key in message else "none"
            raise InputError(f"{key} of message {index} must be a string, got {got}")
    for key, value in message.items():
        if not is_json(value):
            raise InputError(
                f"{key} of message {index} must be a JSON value of {DEEPEST_VALUE} levels at most, got {value!a:.60}"
            )


class _RefusalError(jinja2.TemplateError):
    """The template called `raise_exception`."""


class _GenerationBlock(Extension):
    """`{% generation %} ... {% endgeneration %}`, which marks the assistant's text for training."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _sandbox() -> TemplateSandbox:
    sandbox = TemplateSandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, LoopControls])
    sandbox.filters["tojson"] = _to_json
    sandbox.globals["raise_exception"] = _raise_exception
    sandbox.globals["strftime_now"] = _strftime_now
    return sandbox


@pass_environment
def _to_json(
    sandbox: TemplateSandbox,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` of transformers; Jinja's own escapes HTML."""
    width = len(indent) if isinstance(indent, str) else indent or 0
    if width > _WIDEST_INDENT:
        raise TemplateLimitError(f"indent JSON by {_WIDEST_INDENT} at most, got {indent!a:.20}")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return "".join(map(sandbox.written, encoder.iterencode(value)))


def _raise_exception(message: str) -> NoReturn:
    raise _RefusalError(message)


def _strftime_now(date_format: str) -> str:
    if len(date_format) > _LONGEST_DATE_FORMAT:
        raise TemplateLimitError(f"ask for dates in {_LONGEST_DATE_FORMAT} characters at most, got {len(date_format)}")
    return datetime.now().strftime(date_format)
