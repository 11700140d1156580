"""What a request may hold: supported fields, fields that change nothing, and all others."""

import pytest

from dovetail_ort.server.errors import RequestError
from dovetail_ort.server.requests import read_chat_request, read_completion_request

MESSAGES = [{"role": "user", "content": "?"}]


def chat(**fields):
    return read_chat_request({"messages": MESSAGES, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "prompt_cache_key": "k"},
        {"n": 1, "logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0, "tools": [], "tool_choice": "none"},
        {"temperature": None, "max_tokens": None, "stop": None, "tools": None, "stream": None, "response_format": None},
        {"response_format": {"type": "text"}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_fields_that_ask_for_nothing_change_nothing(fields):
    assert chat(**fields) == chat()


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"n": 2}, "n", "n must be left out or 1, got 2; this server does not support it"),
        ({"n": True}, "n", "got true"),
        ({"tools": [{"type": "function"}]}, "tools", "got a list of 1"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "got an object of 1 fields"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "does not support it"),
        ({"best_of": 1}, "best_of", "knows no such field"),
        ({"temprature": 1}, "temprature", "must be left out; this server knows no such field"),
        ({"temperature": "1"}, "temperature", 'a number from 0 to 2, got "1"'),
        ({"temperature": 2.1}, "temperature", "a number from 0 to 2, got 2.1"),
        ({"temperature": True}, "temperature", "got true"),
        ({"top_p": 0}, "top_p", "a number above 0 to 1, got 0"),
        ({"max_tokens": 0}, "max_tokens", "a whole number from 1"),
        ({"max_tokens": 1.0}, "max_tokens", "got 1.0"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "must be left out"),
        ({"seed": -1}, "seed", "a whole number from 0"),
        ({"stop": ["a"] * 5}, "stop", "a list of 4 strings at most"),
        ({"stop": [""]}, "stop", "strings of 1 to 256 characters"),
        ({"stream": 1}, "stream", "true or false, got 1"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "must come with stream true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"top_logprobs": 2}, "top_logprobs", "must come with logprobs true"),
        ({"messages": []}, "messages", "a list of one message or more"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "one of system, developer, user"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "a string or a list of text parts, got null"),
        ({"messages": [{"role": "user", "content": "x", "rol": 1}]}, "messages[0].rol", "knows no such field"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]},
            "messages[0].content[0].type",
            'must be text, with a field text, got "image_url"',
        ),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_followed_is_refused_by_name(fields, param, said):
    with pytest.raises(RequestError) as error:
        chat(**fields)
    assert error.value.param == param
    assert said in str(error.value)
    assert error.value.status == 400


def test_a_message_never_shows_a_long_value():
    with pytest.raises(RequestError) as error:
        chat(temperature="\x1b[31m" * 1000)
    assert len(str(error.value)) < 150
    assert str(error.value).isprintable()


@pytest.mark.parametrize("prompt", [None, "", [], ["a", "b"], [[1], [2]], [1.5], [True], {"a": 1}], ids=str)
def test_a_completion_has_one_prompt(prompt):
    if prompt == "":
        assert read_completion_request({"prompt": prompt}).prompt == ""  # the model says that it is empty
        return
    with pytest.raises(RequestError, match="prompt must be one text or one list of token ids"):
        read_completion_request({"prompt": prompt})


def test_fields_beside_openai_s_reach_the_sampler():
    sampling = {"temperature": 0.5, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2, "seed": 3}
    assert chat(**sampling).sampling == sampling
