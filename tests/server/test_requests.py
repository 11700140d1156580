"""What a request may hold: supported fields, fields that change nothing, and all others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ParsedChatCompletionMessage

from dovetail_ort.server.errors import RequestError
from dovetail_ort.server.requests import read_chat_request, read_completion_request
from dovetail_ort_runtime.options import SamplingOptions

MESSAGES = [{"role": "user", "content": "?"}]
TEXT = {"type": "text", "text": "?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": [1, 2.5]}'}}
NAMES = (
    *("role", "content", "type", "text", "name", "tool_calls", "function", "arguments", "reasoning_content", "audio"),
    *("messages", "prompt", "stop", "seed", "top_p", "top_k", "temperature", "logprobs", "top_logprobs", "stream"),
    *("response_format", "stream_options", "chat_template_kwargs", "reasoning_effort", "tools", "n", "max_tokens"),
)


def chat(**fields):
    return read_chat_request({"messages": MESSAGES, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "prompt_cache_key": "k"},
        {"n": 1, "logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0, "tools": [], "tool_choice": "none"},
        {"temperature": None, "max_tokens": None, "stop": None, "tools": None, "stream": None, "response_format": None},
        {"response_format": {"type": "text"}},
        {"logprobs": False, "top_logprobs": 0},
        {"top_logprobs": 0},
        {"best_of": 1, "echo": False, "min_tokens": 0, "ignore_eos": False, "stop_token_ids": [], "guided_json": None},
        {"stream_options": {"include_usage": False}},
        {"verbosity": "medium", "modalities": ["text"], "reasoning_effort": None, "chat_template_kwargs": {}},
        {"messages": [{**MESSAGES[0], "tool_calls": None, "refusal": None, "audio": None, "annotations": []}]},
        {"messages": [{"role": "user", "content": [{**TEXT, "cache_control": {"type": "ephemeral"}}]}]},
        {"messages": [{**MESSAGES[0], "cache_control": {"type": "ephemeral"}}]},
        {"max_tokens": -1, "max_completion_tokens": -1},
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
        ({"best_of": 2}, "best_of", "best_of must be left out or 1, got 2"),
        ({"tool_choice": "required"}, "tool_choice", 'left out or "none", got "required"; this server finds no tool'),
        ({"guided_json": {"type": "object"}}, "guided_json", "say it in response_format"),
        ({"ignore_eos": True}, "ignore_eos", "does not support it"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "say in chat_template_kwargs"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs", "an object, got a list of 1"),
        ({"temperature": "1"}, "temperature", 'a number from 0 to 2, got "1"'),
        ({"temperature": 2.1}, "temperature", "a number from 0 to 2, got 2.1"),
        ({"temperature": True}, "temperature", "got true"),
        ({"top_p": -0.1}, "top_p", "a number from 0 to 1, got -0.1"),
        ({"top_k": -2}, "top_k", "a whole number from -1"),
        ({"max_tokens": 0}, "max_tokens", "a whole number from 1"),
        ({"max_tokens": -2}, "max_tokens", "got -2"),
        ({"max_tokens": 1.0}, "max_tokens", "got 1.0"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "ask for different limits"),
        ({"seed": -(2**63) - 1}, "seed", "a whole number from -9223372036854775808"),
        ({"seed": 2**64}, "seed", "to 18446744073709551615"),
        ({"seed": 0.0}, "seed", "a whole number"),
        ({"stop": ["a"] * 5}, "stop", "a list of 4 strings at most"),
        ({"stop": [""]}, "stop", "strings of 1 to 256 characters"),
        ({"stream": 1}, "stream", "true or false, got 1"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs true"),
        ({"messages": []}, "messages", "a list of one message or more"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "one of system, developer, user"),
        ({"messages": [{"role": "tool", "tool_call_id": "c"}]}, "messages[0].content", "got null"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "got null"),
        ({"messages": [{**MESSAGES[0], "name": 1}]}, "messages[0].name", "a string, got 1"),
        ({"messages": [{**MESSAGES[0], "audio": {"id": "a"}}]}, "messages[0].audio", "does not support it"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]}]},
            "messages[0].tool_calls[0].type",
            'must be function, got "custom"',
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]},
            "messages[0].tool_calls[0].function.name",
            "a string, got null",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "a string or a list of text parts, got null"),
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


def test_an_answer_that_openai_s_client_parsed_can_be_sent_back():
    function = {**CALL["function"], "parsed_arguments": {"x": [1, 2.5]}}
    answer = {"role": "assistant", "content": "{}", "parsed": {}, "tool_calls": [{**CALL, "function": function}]}
    message = ParsedChatCompletionMessage.model_validate(answer).model_dump(mode="json", exclude_unset=True)
    asked = chat(messages=[*MESSAGES, message])
    assert asked == chat(messages=[*MESSAGES, {"role": "assistant", "content": "{}", "tool_calls": [CALL]}])
    assert not asked.ignored_fields


def test_no_bound_that_clients_send_is_too_large():
    assert chat(max_tokens=2**53 - 1).max_new_tokens == 2**53 - 1
    assert read_completion_request({"prompt": "?", "max_tokens": -1}).max_new_tokens == 16


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": None, "tool_calls": []}], ids=str)
def test_an_assistant_that_said_nothing_is_empty_text(content):
    messages = [*MESSAGES, {"role": "assistant", "reasoning_content": "hm", **content}]
    assert chat(messages=messages).prompt[1] == {"role": "assistant", "content": "", "reasoning_content": "hm"}


def test_a_field_that_nobody_knows_is_ignored_and_named_with_its_place():
    messages = [{**MESSAGES[0], "foo": 1}, {"role": "user", "content": [{**TEXT, "bar": None, "baz": {"x": 1}}]}]
    rule = {"type": "json_schema", "json_schema": {"schema": {}, "x": 1}}
    asked = chat(messages=messages, temprature=1, response_format=rule, stream=True, stream_options={"y": 1})
    assert asked == replace(
        chat(messages=[MESSAGES[0], MESSAGES[0]], response_format=rule, stream=True),
        ignored_fields=asked.ignored_fields,
    )
    assert sorted(asked.ignored_fields) == [
        "messages[0].foo",
        "messages[1].content[0].baz",
        "response_format.json_schema.x",
        "stream_options.y",
        "temprature",
    ]


def test_all_that_a_template_may_know_of_a_message_reaches_it():
    messages = [
        {"role": "developer", "content": "!", "name": "ann"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "content": [TEXT, TEXT], "tool_call_id": "c1"},
    ]
    function = {"name": "f", "arguments": {"x": [1, 2.5]}}  # templates write the object as JSON
    assert chat(messages=messages).prompt == (
        {"role": "system", "content": "!", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "??", "tool_call_id": "c1"},
    )
    assert chat(messages=messages).ignored_fields == ()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", {}),
        (None, {}),
        ('{"b": 1, "a": "é"}', {"b": 1, "a": "é"}),
        ({"a": 1}, {"a": 1}),
        ('{"a": 1', '{"a": 1'),
        ("[1]", "[1]"),
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a":' * 5000, '{"a":' * 5000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_arguments_of_a_call_are_an_object_or_the_text_that_the_model_wrote(written, read):
    call = {"function": {"name": "f", "arguments": written}}
    (message,) = chat(messages=[{"role": "assistant", "tool_calls": [call]}]).prompt
    assert message["tool_calls"][0]["function"]["arguments"] == read


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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner),
    max_leaves=8,
)


@given(
    fields=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4),
    message=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4),
    part=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3),
)
def test_whatever_a_body_holds_is_read_or_refused_in_one_line(fields, message, part):
    message = {"role": "assistant", "content": [{**TEXT, **part}], **message}
    body = {"messages": [message], "prompt": "?", **fields}
    for read in (read_chat_request, read_completion_request):
        assert len(refusal(read, body).splitlines()) <= 1


def refusal(read, body):
    try:
        read(body)
    except RequestError as error:
        return str(error)
    return ""


def test_values_beyond_the_sampler_s_bounds_have_their_meaning():
    assert chat(top_p=0, temperature=1.5, seed=1).sampling == {"temperature": 0.0, "seed": 1}  # the likeliest token
    assert chat(top_k=-1).sampling == {"top_k": 0}  # all of them


@given(seed=st.integers(-(2**63), 2**64 - 1))
def test_every_64_bit_seed_is_one_of_the_sampler_s_and_its_own(seed):
    (read,) = chat(seed=seed).sampling.values()
    assert SamplingOptions(seed=read).seed == chat(seed=seed).sampling["seed"]
    assert read.to_bytes(8) == (seed.to_bytes(8, signed=True) if seed < 0 else seed.to_bytes(8))


def test_a_reasoning_effort_of_none_asks_the_template_not_to_think():
    assert chat(reasoning_effort="none").template_arguments == {"enable_thinking": False}
    told = {"enable_thinking": True, "thinking_budget": 3}
    assert chat(reasoning_effort="none", chat_template_kwargs=told).template_arguments == told
    assert chat().template_arguments == {}
