"""Values that OpenAI documents or that clients send without a meaning, as OpenAI's own client sends them."""

from __future__ import annotations

import hashlib
import json
from shutil import copytree

import openai
import pytest

from dovetail_ort_runtime.errors import ChatTemplateError
from dovetail_ort_runtime.model import load_model
from dovetail_ort_runtime.options import GenerationOptions

MESSAGES = [{"role": "user", "content": "What holds the pins?"}]
PROMPT = "The tails hold the pins, the tails hold the pins"
TOOL = {"type": "function", "function": {"name": "pins", "parameters": {"type": "object", "properties": {}}}}
TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]"
    "{% if message.reasoning_content %}({{ message.reasoning_content }}){% endif %}"
    "{% if message.content is not none %}{{ message.content }}{% endif %}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}"
    "{% endfor %}{% endfor %}[assistant]{% if enable_thinking is false %}(){% endif %}"
    "{% if dots %}{{ dots - 1 }}{% for _ in range(5) %}{{ '.' * dots }}{% endfor %}{% endif %}"
)


@pytest.mark.parametrize("fields", [{"seed": -1}, {"seed": -(2**63)}, {"seed": 2**63 - 1}], ids=str)
def test_equal_seeds_of_64_bits_give_equal_answers(client, fields):
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 40, "temperature": 1}
    answers = [client.completions.create(**asked, **fields).choices[0].text for _ in range(2)]
    streamed = client.completions.create(**asked, **fields, stream=True)
    assert [*answers, "".join(chunk.choices[0].text for chunk in streamed)] == answers[:1] * 3
    assert client.completions.create(**asked, seed=0).choices[0].text != answers[0]


def test_a_top_p_of_0_takes_the_likeliest_token_and_a_top_k_of_minus_1_all(client):
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 30}
    likeliest = client.completions.create(**asked).choices[0].text
    assert client.completions.create(**asked, temperature=2, top_p=0, seed=1).choices[0].text == likeliest
    warm = {"temperature": 1, "seed": 1}
    sampled = client.completions.create(**asked, **warm).choices[0].text
    assert client.completions.create(**asked, **warm, extra_body={"top_k": -1}).choices[0].text == sampled


def test_logprobs_false_asks_for_none(client):
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 3, "logprobs": False, "top_logprobs": 0}
    assert client.chat.completions.create(**asked).choices[0].logprobs is None


def test_what_clients_send_without_a_meaning_changes_no_answer(client):
    asked = {"model": "tiny", "max_tokens": 12}
    plain = client.chat.completions.create(messages=MESSAGES, **asked).choices[0].message.content
    text = {"type": "text", "text": MESSAGES[0]["content"], "cache_control": {"type": "ephemeral"}}
    message = {"role": "user", "content": [text], "name": "ann", "refusal": None}
    extra = {"reasoning_effort": "none", "parallel_tool_calls": True, "tool_choice": "auto", "n": 1, "user": "ann"}
    unknown = {"foo": 1, "chat_template_kwargs": {"enable_thinking": False}}
    made = client.chat.completions.with_raw_response.create(messages=[message], **asked, **extra, extra_body=unknown)
    assert made.parse().choices[0].message.content == plain
    assert made.headers["x-dovetail-ignored-fields"] == "foo"
    streamed = client.chat.completions.create(messages=[message], **asked, **extra, extra_body=unknown, stream=True)
    assert streamed.response.headers["x-dovetail-ignored-fields"] == "foo"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == plain


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logit_bias": {"5": 10}},
        {"frequency_penalty": 1},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "required"},
        {"reasoning_effort": "high"},
    ],
    ids=str,
)
def test_what_would_change_the_answer_and_is_not_supported_is_refused(client, fields):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=MESSAGES, **fields)
    assert refused.value.param in fields


def with_template(tiny_bundle, folder, source):
    """The bundle with another chat template."""
    bundle = copytree(tiny_bundle, folder / "bundle")
    template = bundle / "chat_template.jinja"
    template.write_text(source)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (entry,) = [entry for entry in manifest["files"] if entry["path"] == template.name]
    entry |= {"num_bytes": template.stat().st_size, "sha256": hashlib.sha256(template.read_bytes()).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.fixture(scope="module")
def template_knows_tools(tiny_bundle, tmp_path_factory, serving):
    """A server whose chat template writes calls of tools, reasoning and a switch, and its model."""
    bundle = with_template(tiny_bundle, tmp_path_factory.mktemp("tools"), TEMPLATE)
    with load_model(bundle, threads=1, drafter="lookup") as model, serving(model) as served, served.client() as client:
        yield client, model


def test_a_conversation_with_tools_is_what_the_template_makes_of_it(template_knows_tools):
    client, model = template_knows_tools
    call = {"id": "c1", "type": "function", "function": {"name": "pins", "arguments": '{"of": "joint"}'}}
    conversation = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "look"},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    text = '[user]What holds the pins?[assistant](look)pins{"of": "joint"}[tool]42[assistant]'  # as TEMPLATE says
    options = GenerationOptions(max_new_tokens=12)
    for switch, written in (({}, text), ({"enable_thinking": False}, text + "()")):
        expected = model.generate(model.tokenizer.encode(written, add_special_tokens=False), options).text
        asked = {"model": "tiny", "messages": conversation, "max_tokens": 12}
        extra = {"chat_template_kwargs": switch}
        answer = client.chat.completions.create(**asked, extra_body=extra)
        assert answer.choices[0].message.content == expected
        chunks = client.chat.completions.create(**asked, extra_body=extra, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    effort = client.chat.completions.create(**asked, reasoning_effort="none")
    assert effort.choices[0].message.content == expected


def test_a_template_that_adds_arguments_to_text_gets_them_as_text(tiny_bundle, tmp_path, serving):
    # DeepSeek-R1's templates do so, and those of its distilled models.
    source = (
        "{% for message in messages %}{{ message.content or '' }}{% for call in message.tool_calls or [] %}"
        "{{ call.function.name + '\\n' + call.function.arguments }}{% endfor %}{% endfor %}"
    )
    call = {"id": "c1", "type": "function", "function": {"name": "pins", "arguments": '{"of": "Größe"}'}}
    conversation = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]}]
    written = MESSAGES[0]["content"] + 'pins\n{"of": "Größe"}'
    with (
        load_model(with_template(tiny_bundle, tmp_path, source), threads=1, drafter="lookup") as model,
        serving(model) as served,
        served.client() as client,
    ):
        made = client.chat.completions.create(model="tiny", messages=conversation, max_tokens=12)
        ids = model.tokenizer.encode(written, add_special_tokens=False)
        assert made.usage.prompt_tokens == len(ids)
        assert made.choices[0].message.content == model.generate(ids, GenerationOptions(max_new_tokens=12)).text


@pytest.mark.parametrize(
    "arguments",
    [{"messages": []}, {"eos_token": "x"}, {"not a name": 1}, {"x": [[0] * 9] * 20_000}, {"tools": 1}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_a_template_argument_out_of_bounds_is_the_client_s_fault(template_knows_tools, arguments):
    client, _ = template_knows_tools
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={"chat_template_kwargs": arguments})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("limit", ["long", 10**9], ids=["failure", "budget"])
def test_what_the_template_fails_on_is_refused_with_the_reason(template_knows_tools, limit, stream):
    client, model = template_knows_tools
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 4, "stream": stream}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked, extra_body={"chat_template_kwargs": {"dots": limit}})
    with pytest.raises(ChatTemplateError) as failed:
        model.token_ids(MESSAGES, template_arguments={"dots": limit})
    assert refused.value.body["message"] == str(failed.value)
    assert client.chat.completions.create(**asked, extra_body={"chat_template_kwargs": {"dots": 2}})
