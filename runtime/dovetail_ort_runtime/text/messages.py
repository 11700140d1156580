"""What a prompt may be: text, token ids, or the messages of a conversation. It knows no template and no tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict


class Message(TypedDict):
    """One turn of a conversation. Other keys are allowed, and reach the chat template unchanged.

    Attributes:
        role: who speaks; most templates know "system", "user", "assistant" and "tool".
        content: what is said; None or missing only where there are `tool_calls`.
        reasoning_content: what an assistant thought before its answer.
        tool_calls: tool calls that an assistant asked for.
        tool_call_id: id of the tool call that this message answers.
        name: name of the speaker or of the tool.
    """

    role: str
    content: NotRequired[str | None]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[Sequence[Mapping[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


# A type checker reads a list of dictionaries that is written in a call as mappings, not as `Message`.
Prompt = str | Sequence[Message] | Sequence[Mapping[str, Any]] | Sequence[int]
