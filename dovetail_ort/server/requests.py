"""What a request asks for, read from its JSON body. It knows OpenAI's fields, but no model and no connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from dovetail_ort.server.conversation import read_conversation
from dovetail_ort.server.errors import RequestError
from dovetail_ort.server.json_body import Fields, Neutral, bad_value
from dovetail_ort.server.unsupported_fields import ADVICE, HARMLESS, UNSUPPORTED_BY_CHAT, UNSUPPORTED_BY_COMPLETIONS
from dovetail_ort_runtime.text.messages import Message

_LARGEST_NUMBER: Final = 2**63 - 1  # what clients send to ask for no bound
_MOST_STOPS: Final = 4
_LONGEST_STOP: Final = 256
_COMPLETION_TOKENS: Final = 16  # OpenAI's default for this route


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRequest:
    """One answer that is asked for.

    Attributes:
        prompt: text to continue, messages for the chat template, or token ids.
        prompt_field: name of the field that the prompt was read from.
        model: name of the model, or None.
        max_new_tokens: largest number of tokens of the answer, 1 or more; None if the request does not say.
        stop: up to four strings that end the answer.
        template_arguments: values for the chat template beside the messages.
        sampling: fields of `SamplingOptions` that the request sets.
        logprobs: number of alternatives to name for each token; None for no log-probabilities.
        rule: rule that the text must follow: `json_schema` with a schema, or `regex` with an expression; or None.
        stream: whether the answer is sent while it grows.
        include_usage: whether a stream ends with the numbers of tokens.
        ignored_fields: paths in the body of fields that the server does not know.
    """

    prompt: str | tuple[Message, ...] | tuple[int, ...]
    prompt_field: str
    model: str | None
    max_new_tokens: int | None
    stop: tuple[str, ...]
    template_arguments: Mapping[str, Any]
    sampling: Mapping[str, Any]
    logprobs: int | None
    rule: tuple[str, Any] | None
    stream: bool
    include_usage: bool
    ignored_fields: tuple[str, ...] = ()


def read_chat_request(body: object) -> AnswerRequest:
    """Read the body of `/v1/chat/completions`.

    Raises:
        RequestError: a field is missing, out of bounds or not supported.
    """
    fields = Fields(body)
    prompt = read_conversation(fields)
    wants_logprobs = fields.boolean("logprobs")
    alternatives = fields.integer("top_logprobs", 0, 20) or 0
    if alternatives and not wants_logprobs:
        raise RequestError("top_logprobs needs logprobs true", param="top_logprobs")
    return _request(
        fields,
        UNSUPPORTED_BY_CHAT,
        prompt=prompt,
        prompt_field="messages",
        template_arguments=_template_arguments(fields),
        max_new_tokens=_chat_limit(fields),
        logprobs=alternatives if wants_logprobs else None,
    )


def read_completion_request(body: object) -> AnswerRequest:
    """Read the body of `/v1/completions`.

    Raises:
        RequestError: a field is missing, out of bounds or not supported.
    """
    fields = Fields(body)
    return _request(
        fields,
        UNSUPPORTED_BY_COMPLETIONS,
        prompt=_text_or_ids(fields.take("prompt")),
        prompt_field="prompt",
        template_arguments={},
        max_new_tokens=_limit(fields, "max_tokens") or _COMPLETION_TOKENS,
        logprobs=fields.integer("logprobs", 0, 5),
    )


def _request(fields: Fields, unsupported: Neutral, **read: Any) -> AnswerRequest:
    """The request, with the fields that both routes have.

    Args:
        fields: fields of the body that are left.
        unsupported: fields that this route refuses.
        read: fields of the request that were read already.
    """
    fields.only(unsupported, ADVICE)
    fields.ignore(HARMLESS)
    stream = fields.boolean("stream")
    request = AnswerRequest(
        model=fields.text("model"),
        stop=_stops(fields.take("stop")),
        sampling=_sampling(fields),
        rule=_rule(fields),
        stream=stream,
        include_usage=_include_usage(fields, stream=stream),
        **read,
    )
    fields.end()
    return replace(request, ignored_fields=tuple(fields.ignored))


def _template_arguments(fields: Fields) -> dict[str, Any]:
    """The field `chat_template_kwargs`; a reasoning effort of "none" sets `enable_thinking`, as templates call it."""
    effort = fields.text("reasoning_effort")
    given = fields.take("chat_template_kwargs")
    if effort not in (None, "none"):
        raise RequestError(
            'reasoning_effort must be left out or "none"; say in chat_template_kwargs what the chat template knows',
            param="reasoning_effort",
        )
    if given is not None and not isinstance(given, dict):
        raise bad_value("chat_template_kwargs", "an object", given)
    asked = {} if effort is None else {"enable_thinking": False}
    return {**asked, **(given or {})}


def _sampling(fields: Fields) -> dict[str, Any]:
    given = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": fields.number("top_p", 0, 1),
        "top_k": fields.integer("top_k", -1, _LARGEST_NUMBER),
        "min_p": fields.number("min_p", 0, 1),
        "repetition_penalty": fields.number("repetition_penalty", 0, 2, above=True),
        "seed": fields.integer("seed", -(2**63), 2**64 - 1),
    }
    if given["top_p"] == 0:  # the likeliest token alone
        given |= {"top_p": None, "temperature": 0.0}
    if given["top_k"] == -1:  # all tokens, as 0
        given["top_k"] = 0
    if given["seed"] is not None:
        given["seed"] %= 2**64  # the sampler knows no negative ones
    return {name: value for name, value in given.items() if value is not None}


def _stops(value: object) -> tuple[str, ...]:
    stops = value
    if value is None:
        stops = []
    elif isinstance(value, str):
        stops = [value]
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS:
        raise bad_value("stop", f"a string or a list of {_MOST_STOPS} strings at most", value)
    for stop in stops:
        if not isinstance(stop, str) or not 1 <= len(stop) <= _LONGEST_STOP:
            raise bad_value("stop", f"of strings of 1 to {_LONGEST_STOP} characters", stop)
    return tuple(stops)


def _include_usage(fields: Fields, *, stream: bool) -> bool:
    value = fields.take("stream_options")
    if value is None:
        return False
    options = fields.within("stream_options", value)
    options.ignore(["include_obfuscation"])
    wanted = options.boolean("include_usage")
    options.end()
    if wanted and not stream:
        raise RequestError("stream_options needs stream true", param="stream_options")
    return wanted


def _chat_limit(fields: Fields) -> int | None:
    """Tokens of the answer, by OpenAI's newer name of the field or by the older one."""
    newer = _limit(fields, "max_completion_tokens")
    older = _limit(fields, "max_tokens")
    if newer is not None and older is not None and newer != older:
        message = "max_tokens and max_completion_tokens ask for different limits; send one of them"
        raise RequestError(message, param="max_tokens")
    return older if newer is None else newer


def _limit(fields: Fields, name: str) -> int | None:
    """Tokens of the answer at most; -1 leaves it to the server, as with other servers."""
    value = fields.integer(name, -1, _LARGEST_NUMBER)
    if value == 0:
        raise bad_value(fields.path(name), f"a whole number from 1 to {_LARGEST_NUMBER}, or -1", value)
    return None if value == -1 else value


def _text_or_ids(value: object) -> str | tuple[int, ...]:
    """One prompt, which may stand alone in a list."""
    found = value
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], int):
        found = value[0]
    if isinstance(found, str):
        return found
    if not isinstance(found, list) or not found or any(type(token_id) is not int for token_id in found):
        raise bad_value("prompt", "one text or one list of token ids; send one request for each prompt", value)
    return tuple(found)


def _rule(fields: Fields) -> tuple[str, Any] | None:
    """The rule of the field `response_format`. Beside OpenAI's types there is `regex`, with a field of that name."""
    value = fields.take("response_format")
    if value is None:
        return None
    response_format = fields.within("response_format", value)
    kind = response_format.text("type")
    match kind:
        case "text":
            rule: tuple[str, Any] | None = None
        case "json_object":
            rule = "json_schema", {"type": "object"}
        case "json_schema":
            named = response_format.within("json_schema", response_format.take("json_schema"))
            named.ignore(["name", "description", "strict"])  # every schema is followed strictly
            rule = "json_schema", named.required("schema", dict, "a JSON schema, an object")
            named.end()
        case "regex":
            rule = "regex", response_format.required("regex", str, "a regular expression")
        case _:
            raise bad_value("response_format.type", "text, json_object, json_schema or regex", kind)
    response_format.end()
    return rule
