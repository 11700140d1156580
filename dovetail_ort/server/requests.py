"""What a request asks for, read from its JSON body. It knows OpenAI's fields, no model and no connection."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dovetail_ort.server.errors import RequestError
from dovetail_ort.server.json_body import Fields, Neutral, bad_value
from dovetail_ort_runtime.prompt import Message

MOST_TOKENS: Final = 2**31 - 1
_MOST_STOPS: Final = 4
_LONGEST_STOP: Final = 256
_COMPLETION_TOKENS: Final = 16  # OpenAI's default for this route

# Fields of OpenAI's that change no answer here: accounts, tiers, hints to go faster.
_HARMLESS: Final = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prediction", "parallel_tool_calls"),
    *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
)
# Fields that would change it.
_UNSUPPORTED: Final[Neutral] = {
    "n": (1,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
}
_UNSUPPORTED_BY_CHAT: Final[Neutral] = {
    **_UNSUPPORTED,
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    **dict.fromkeys(("audio", "reasoning_effort", "verbosity", "web_search_options"), ()),
}
_UNSUPPORTED_BY_COMPLETIONS: Final[Neutral] = {
    **_UNSUPPORTED,
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}

_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# What clients send back when they append an answer to the conversation as they got it.
_OF_AN_ANSWER: Final[Neutral] = {
    **dict.fromkeys(("tool_calls", "annotations"), ([],)),
    **dict.fromkeys(("refusal", "audio", "function_call", "name", "tool_call_id"), ()),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRequest:
    """One answer that is asked for.

    Attributes:
        prompt: text to continue, messages for the chat template, or token ids.
        prompt_field: where it stands in the body.
        model: name of the model, or None.
        max_new_tokens: >= 1, or None.
        stop: up to four strings that end the answer.
        sampling: fields of `SamplingOptions` that the request sets.
        logprobs: None, or how many alternatives to name for each token.
        rule: what the text must follow: `json_schema` and the schema as JSON gave it, or `regex` and the expression.
        stream: whether the answer is sent as it grows.
        include_usage: whether a stream ends with the numbers of tokens.
    """

    prompt: str | tuple[Message, ...] | tuple[int, ...]
    prompt_field: str
    model: str | None
    max_new_tokens: int | None
    stop: tuple[str, ...]
    sampling: Mapping[str, Any]
    logprobs: int | None
    rule: tuple[str, Any] | None
    stream: bool
    include_usage: bool


def read_chat_request(body: object) -> AnswerRequest:
    """The body of `/v1/chat/completions`.

    Raises:
        RequestError: a field is missing, out of bounds, not supported or unknown.
    """
    fields = Fields(body)
    prompt = _messages(fields.take("messages"))
    wants_logprobs, alternatives = fields.boolean("logprobs"), fields.integer("top_logprobs", 0, 20)
    if alternatives is not None and not wants_logprobs:
        raise RequestError("top_logprobs must come with logprobs true", param="top_logprobs")
    limits = [fields.integer(name, 1, MOST_TOKENS) for name in ("max_completion_tokens", "max_tokens")]
    if None not in limits and limits[0] != limits[1]:
        raise RequestError("max_tokens must be left out where max_completion_tokens is given", param="max_tokens")
    return _request(
        fields,
        _UNSUPPORTED_BY_CHAT,
        prompt=prompt,
        prompt_field="messages",
        max_new_tokens=limits[0] or limits[1],
        logprobs=(alternatives or 0) if wants_logprobs else None,
    )


def read_completion_request(body: object) -> AnswerRequest:
    """The body of `/v1/completions`.

    Raises:
        RequestError: as `read_chat_request`.
    """
    fields = Fields(body)
    return _request(
        fields,
        _UNSUPPORTED_BY_COMPLETIONS,
        prompt=_text_or_ids(fields.take("prompt")),
        prompt_field="prompt",
        max_new_tokens=fields.integer("max_tokens", 1, MOST_TOKENS) or _COMPLETION_TOKENS,
        logprobs=fields.integer("logprobs", 0, 5),
    )


def _request(fields: Fields, unsupported: Neutral, **read: Any) -> AnswerRequest:
    """The fields that both routes have; `unsupported` are those that this route refuses."""
    fields.only(unsupported)
    fields.ignore(_HARMLESS)
    stream = fields.boolean("stream")
    request = AnswerRequest(
        model=fields.text("model"),
        stop=_stops(fields.take("stop")),
        sampling=_sampling(fields),
        rule=_rule(fields.take("response_format")),
        stream=stream,
        include_usage=_include_usage(fields.take("stream_options"), stream=stream),
        **read,
    )
    fields.end()
    return request


def _sampling(fields: Fields) -> dict[str, Any]:
    given = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": fields.number("top_p", 0, 1, above=True),
        "top_k": fields.integer("top_k", 0, MOST_TOKENS),
        "min_p": fields.number("min_p", 0, 1),
        "repetition_penalty": fields.number("repetition_penalty", 0, 2, above=True),
        "seed": fields.integer("seed", 0, 2**63 - 1),
    }
    return {name: value for name, value in given.items() if value is not None}


def _stops(value: object) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS:
        raise bad_value("stop", f"a string or a list of {_MOST_STOPS} strings at most", value)
    for stop in stops:
        if not isinstance(stop, str) or not 1 <= len(stop) <= _LONGEST_STOP:
            raise bad_value("stop", f"of strings of 1 to {_LONGEST_STOP} characters", stop)
    return tuple(stops)


def _include_usage(value: object, *, stream: bool) -> bool:
    if value is None:
        return False
    if not stream:
        raise RequestError("stream_options must come with stream true", param="stream_options")
    options = Fields(value, "stream_options")
    options.ignore(["include_obfuscation"])
    wanted = options.boolean("include_usage")
    options.end()
    return wanted


def _text_or_ids(value: object) -> str | tuple[int, ...]:
    """One prompt, which may stand in a list of its own."""
    found = value[0] if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], int) else value
    if isinstance(found, str):
        return found
    if not isinstance(found, list) or not found or any(type(token_id) is not int for token_id in found):
        raise bad_value("prompt", "one text or one list of token ids; send one request for each prompt", value)
    return tuple(found)


def _messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise bad_value("messages", "a list of one message or more", value)
    return tuple(_message(Fields(message, f"messages[{index}]")) for index, message in enumerate(value))


def _message(fields: Fields) -> Message:
    role = fields.text("role")
    if role not in _ROLES:
        raise bad_value(fields.path("role"), f"one of {', '.join(_ROLES)}", role)
    content = _content(fields.take("content"), fields.path("content"))
    fields.only(_OF_AN_ANSWER)
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


def _rule(value: object) -> tuple[str, Any] | None:
    """The field `response_format`; beside OpenAI's types there is `regex`, with the expression in a field `regex`."""
    if value is None:
        return None
    response_format = Fields(value, "response_format")
    kind = response_format.text("type")
    match kind:
        case "text":
            rule: tuple[str, Any] | None = None
        case "json_object":
            rule = "json_schema", {"type": "object"}
        case "json_schema":
            named = Fields(response_format.take("json_schema"), "response_format.json_schema")
            named.ignore(["name", "description", "strict"])  # every schema is kept to the letter
            rule = "json_schema", named.required("schema", dict, "a JSON schema, an object")
            named.end()
        case "regex":
            rule = "regex", response_format.required("regex", str, "a regular expression")
        case _:
            raise bad_value("response_format.type", "text, json_object, json_schema or regex", kind)
    response_format.end()
    return rule
