"""The messages of a chat request, as the chat template reads them. It knows no template and no model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from dovetail_ort.server.json_body import Fields, Neutral, bad_value
from dovetail_ort_runtime.text.messages import Message
from dovetail_ort_runtime.text.template_arguments import is_json

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
# Fields that clients send back when they append an answer to the conversation unchanged.
_OF_AN_ANSWER: Final[Neutral] = {"refusal": ("",), "audio": (), "function_call": ()}


def read_conversation(fields: Fields) -> tuple[Message, ...]:
    """Read the field `messages` of a body. Names, reasoning and tool calls are kept for the template.

    Raises:
        RequestError: the field is missing, or a message is malformed.
    """
    value = fields.take("messages")
    if not isinstance(value, list) or not value:
        raise bad_value("messages", "a list of one message or more", value)
    return tuple(_message(fields.within(f"messages[{index}]", message)) for index, message in enumerate(value))


def with_text_arguments(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same messages, with the arguments of tool calls as JSON text instead of objects."""
    return tuple(_with_text_arguments(message) if "tool_calls" in message else message for message in messages)


def _with_text_arguments(message: Message) -> Message:
    calls = []
    for call in message["tool_calls"]:
        arguments = call["function"]["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": text}})
    return {**message, "tool_calls": calls}


def _message(fields: Fields) -> Message:
    role = fields.text("role")
    if role is None or role not in _ROLES:
        raise bad_value(fields.path("role"), f"one of {', '.join(_ROLES)}", role)
    calls = _tool_calls(fields)
    message: Message = {
        "role": "system" if role == "developer" else role,
        "content": _said(fields, role, has_calls=bool(calls)),
    }
    if calls:  # templates test whether the key is there
        message["tool_calls"] = calls
    for name in ("name", "tool_call_id", "reasoning_content"):
        text = fields.text(name)
        if text is not None:
            message[name] = text
    fields.ignore(["annotations", "cache_control", "parsed"])  # OpenAI's client adds `parsed` to an answer
    fields.only(_OF_AN_ANSWER)
    fields.end()
    return message


def _said(fields: Fields, role: str, *, has_calls: bool) -> str | None:
    content = fields.take("content")
    if content is None and role == "assistant":
        return None if has_calls else ""  # such as a turn of reasoning alone
    return _content(fields, content)


def _content(fields: Fields, value: object) -> str:
    """A text, or the texts of several parts put together."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise bad_value(fields.path("content"), "a string or a list of text parts", value)
    return "".join(_part(fields.within(f"content[{index}]", part)) for index, part in enumerate(value))


def _part(fields: Fields) -> str:
    kind = fields.take("type")
    text = fields.text("text")
    if kind != "text" or text is None:
        raise bad_value(fields.path("type"), "text, with a field text", kind)
    fields.ignore(["cache_control"])
    fields.end()
    return text


def _tool_calls(fields: Fields) -> list[dict[str, Any]]:
    value = fields.take("tool_calls")
    if value is None:
        return []
    if not isinstance(value, list):
        raise bad_value(fields.path("tool_calls"), "a list", value)
    return [_tool_call(fields.within(f"tool_calls[{index}]", call)) for index, call in enumerate(value)]


def _tool_call(fields: Fields) -> dict[str, Any]:
    kind = fields.text("type") or "function"
    if kind != "function":
        raise bad_value(fields.path("type"), "function", kind)
    identity = fields.text("id")
    function = fields.within("function", fields.take("function"))
    call = {
        "type": "function",
        "function": {
            "name": function.required("name", str, "a string"),
            "arguments": _arguments(function.take("arguments"), function.path("arguments")),
        },
    }
    fields.ignore(["index"])  # left over where a client put a call together from a stream
    function.ignore(["parsed_arguments"])
    function.end()
    fields.end()
    return call if identity is None else {"id": identity, **call}


def _arguments(value: object, path: str) -> object:
    """Arguments of a call as an object, which templates write as JSON. Text that is no object stays as it is."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, str | None):
        raise bad_value(path, "a JSON object in a string", value)
    try:
        found: object = json.loads(value or "{}")
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, dict) and is_json(found) else value
