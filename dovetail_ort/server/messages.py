"""A conversation as OpenAI's clients send it. It knows no chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dovetail_ort.server.fields import Fields, bad_value
from dovetail_ort_runtime.chat_template import Message

_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# What clients send back when they append an answer to the conversation as they got it.
_OF_AN_ANSWER: Final[Mapping[str, tuple[object, ...]]] = {
    **dict.fromkeys(("tool_calls", "annotations"), ([],)),
    **dict.fromkeys(("refusal", "audio", "function_call", "name", "tool_call_id"), ()),
}


def read_messages(value: object) -> tuple[Message, ...]:
    """The field `messages`.

    Raises:
        RequestError: it is missing, or has a part that is no text.
    """
    if not isinstance(value, list) or not value:
        raise bad_value("messages", "a list of one message or more", value)
    return tuple(_message(Fields(message, f"messages[{index}]")) for index, message in enumerate(value))


def _message(fields: Fields) -> Message:
    role = fields.text("role")
    if role not in _ROLES:
        raise bad_value(fields.path("role"), f"one of {', '.join(_ROLES)}", role)
    content = _content(fields.take("content"), fields.path("content"))
    for name, neutral in _OF_AN_ANSWER.items():
        fields.only(name, *neutral)
    fields.end()
    return {"role": _ROLES[role], "content": content}


def _content(value: object, path: str) -> str:
    """Text, or the texts of several parts put together."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise bad_value(path, "a string or a list of text parts", value)
    return "".join(_part(Fields(part, f"{path}[{index}]")) for index, part in enumerate(value))


def _part(fields: Fields) -> str:
    kind, text = fields.take("type"), fields.text("text")
    if kind != "text" or text is None:
        raise bad_value(fields.path("type"), "text, with a field text", kind)
    fields.end()
    return text
