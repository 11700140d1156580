"""What a request asks for, read from its JSON body. It knows OpenAI's fields, no model and no connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from dovetail_ort.server.conversation import read_conversation
from dovetail_ort.server.errors import RequestError
from dovetail_ort.server.json_body import Fields, Neutral, bad_value
from dovetail_ort_runtime.text.messages import Message

_LARGEST_NUMBER: Final = 2**63 - 1  # what clients send to ask for no bound
_MOST_STOPS: Final = 4
_LONGEST_STOP: Final = 256
_COMPLETION_TOKENS: Final = 16  # OpenAI's default for this route

# Fields of OpenAI's that change no answer here: accounts, tiers, hints to go faster.
_HARMLESS: Final = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prediction", "parallel_tool_calls"),
    *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
)
_OF_TOOLS: Final = ("tools", "tool_choice", "functions", "function_call")
# How requests of other servers say what `response_format` says here.
_RULES_OF_OTHERS: Final = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")
# Fields that would change it: OpenAI's, and those of other servers that many clients send.
_UNSUPPORTED: Final[Neutral] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    **dict.fromkeys(_RULES_OF_OTHERS, ()),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
}
_UNSUPPORTED_BY_CHAT: Final[Neutral] = {
    **_UNSUPPORTED,
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    **dict.fromkeys(("audio", "web_search_options"), ()),
}
_UNSUPPORTED_BY_COMPLETIONS: Final[Neutral] = {**_UNSUPPORTED, "suffix": ("",)}
_ADVICE: Final = {
    **dict.fromkeys(_OF_TOOLS, "this server finds no tool calls in an answer: ask without tools"),
    **dict.fromkeys(_RULES_OF_OTHERS, "say it in response_format"),
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
        template_arguments: what the chat template of messages is given beside them.
        sampling: fields of `SamplingOptions` that the request sets.
        logprobs: None, or how many alternatives to name for each token.
        rule: what the text must follow: `json_schema` and the schema as JSON gave it, or `regex` and the expression.
        stream: whether the answer is sent as it grows.
        include_usage: whether a stream ends with the numbers of tokens.
        ignored_fields: where the fields stand that the server does not know.
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
    """The body of `/v1/chat/completions`.

    Raises:
        RequestError: a field is missing, out of bounds or not supported.
    """
    fields = Fields(body)
    prompt = read_conversation(fields)
    wants_logprobs, alternatives = fields.boolean("logprobs"), fields.integer("top_logprobs", 0, 20) or 0
    if alternatives and not wants_logprobs:
        raise RequestError("top_logprobs must come with logprobs true", param="top_logprobs")
    limits = [_limit(fields, name) for name in ("max_completion_tokens", "max_tokens")]
    if None not in limits and limits[0] != limits[1]:
        raise RequestError("max_tokens must be left out where max_completion_tokens is given", param="max_tokens")
    return _request(
        fields,
        _UNSUPPORTED_BY_CHAT,
        prompt=prompt,
        prompt_field="messages",
        template_arguments=_template_arguments(fields),
        max_new_tokens=limits[0] or limits[1],
        logprobs=alternatives if wants_logprobs else None,
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
        template_arguments={},
        max_new_tokens=_limit(fields, "max_tokens") or _COMPLETION_TOKENS,
        logprobs=fields.integer("logprobs", 0, 5),
    )


def _request(fields: Fields, unsupported: Neutral, **read: Any) -> AnswerRequest:
    """The fields that both routes have; `unsupported` are those that this route refuses."""
    fields.only(unsupported, _ADVICE)
    fields.ignore(_HARMLESS)
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
    """The field `chat_template_kwargs`; a reasoning effort of "none" sets the switch that templates have for it."""
    effort, given = fields.text("reasoning_effort"), fields.take("chat_template_kwargs")
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
    if given["top_p"] == 0:  # of the likeliest tokens at least one stays
        given |= {"top_p": None, "temperature": 0.0}
    if given["top_k"] == -1:  # as 0, all of them
        given["top_k"] = 0
    if given["seed"] is not None:
        given["seed"] %= 2**64  # the sampler knows no negative ones
    return {name: value for name, value in given.items() if value is not None}


def _stops(value: object) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
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
        raise RequestError("stream_options must come with stream true", param="stream_options")
    return wanted


def _limit(fields: Fields, name: str) -> int | None:
    """Tokens of the answer; -1 leaves it to the server, as other servers have it."""
    value = fields.integer(name, -1, _LARGEST_NUMBER)
    if value == 0:
        raise bad_value(fields.path(name), f"a whole number from 1 to {_LARGEST_NUMBER}, or -1", value)
    return None if value == -1 else value


def _text_or_ids(value: object) -> str | tuple[int, ...]:
    """One prompt, which may stand in a list of its own."""
    found = value[0] if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], int) else value
    if isinstance(found, str):
        return found
    if not isinstance(found, list) or not found or any(type(token_id) is not int for token_id in found):
        raise bad_value("prompt", "one text or one list of token ids; send one request for each prompt", value)
    return tuple(found)


def _rule(fields: Fields) -> tuple[str, Any] | None:
    """The field `response_format`; beside OpenAI's types there is `regex`, with the expression in a field `regex`."""
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
            named.ignore(["name", "description", "strict"])  # every schema is kept to the letter
            rule = "json_schema", named.required("schema", dict, "a JSON schema, an object")
            named.end()
        case "regex":
            rule = "regex", response_format.required("regex", str, "a regular expression")
        case _:
            raise bad_value("response_format.type", "text, json_object, json_schema or regex", kind)
    response_format.end()
    return rule
