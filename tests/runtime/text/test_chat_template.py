"""Rendered conversations equal those of transformers, and hostile templates end within their budget."""

from __future__ import annotations

import functools

import pytest

from dovetail_ort_runtime.errors import BundleError, ChatTemplateError, InputError
from dovetail_ort_runtime.text.chat_template import ChatTemplate

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# What templates of Llama, Mistral and Qwen use between them.
EVERYTHING = """
{%- if tools is defined and tools is not none %}
    {{- "tools" }}
{%- endif %}
{{- bos_token }}
{%- set ns = namespace(last='') %}
{% for message in messages %}
    {% if message.role == 'system' %}
        {%- continue %}
    {% elif loop.index > 4 %}
        {% break %}
    {% endif %}
    {%- set ns.last = message.role %}
    [{{ message['role'] | upper }}] {{ message['content'] | trim }}{{ message | tojson }}
    {% if message.role == 'assistant' %}
    {% generation %}
    answer {{ message.content[:3] }}
    {% endgeneration %}
    {% endif %}
{% endfor %}
{{ documents }}|{{ undefined_name }}|{{ ns.last }}{{ eos_token }}{{ strftime_now('%Y') }}
{{ messages[0] | tojson(indent=2) }}
{% if add_generation_prompt %}
[ASSISTANT]
{%- endif %}
"""
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": ' <b>"Käse"</b> & 日本 \n'},
    {"role": "assistant", "content": "it's fine"},
    {"role": "user", "content": "{{ messages }}"},
]
USER = [{"role": "user", "content": "Hi"}]
# The switches of Qwen3's template, and how it and Llama's word tools.
SWITCHES = """
{%- if tools %}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
{%- endif %}
{%- for document in documents or [] %}{{- document.title }}{%- endfor %}
{%- for message in messages %}
    {{- '[' + message.role + ']' }}
    {%- if message.content is string %}{{- message.content }}{%- endif %}
    {%- if message.reasoning_content is defined %}<think>{{- message.reasoning_content }}</think>{%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- call.function.name }}({{ call.function.arguments | tojson }}){{ call.id }}
    {%- endfor %}
    {%- if message.role == 'tool' %}{{- message.tool_call_id ~ message.name }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[assistant]' }}
    {%- if enable_thinking is defined and enable_thinking is false %}<think></think>{%- endif %}
{%- endif %}
{{- depth | tojson if depth is defined }}
"""
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich"}}}
WITH_TOOLS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "look"},
    {"role": "tool", "content": "4 °C", "tool_call_id": "call_1", "name": "weather"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "content": "", "tool_call_id": "call_1", "name": "weather"},
]
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(source, messages=USER, **options):
    return ChatTemplate(source, SPECIAL_TOKENS).render(messages, **options)


@pytest.mark.parametrize("source", [CHATML, EVERYTHING], ids=["chatml", "everything"])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("messages", [USER, CONVERSATION], ids=["one", "several"])
def test_text_equals_that_of_transformers(source, add_generation_prompt, messages):
    expected = rendered_by_transformers(source, messages, add_generation_prompt=add_generation_prompt)
    assert render(source, messages, add_generation_prompt=add_generation_prompt) == expected


@pytest.mark.parametrize("messages", [USER, WITH_TOOLS], ids=["one", "tools"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"enable_thinking": False},
        {"enable_thinking": True, "tools": TOOLS, "documents": [{"title": "Joints", "text": "Tails and pins."}]},
        {"tools": None, "depth": {"of": [1, 2.5, "ä"]}},
    ],
    ids=str,
)
def test_template_arguments_and_tool_messages_give_the_text_of_transformers(messages, arguments):
    assert render(SWITCHES, messages, **arguments) == rendered_by_transformers(SWITCHES, messages, **arguments)


def test_to_a_template_that_does_not_know_tool_calls_a_message_of_them_alone_is_empty():
    without_calls = [{"role": message["role"], "content": message.get("content") or ""} for message in WITH_TOOLS]
    assert render(CHATML, WITH_TOOLS) == rendered_by_transformers(CHATML, without_calls)


def rendered_by_transformers(source, messages, **options):
    reason = "compares with transformers, which the [export] extra installs"
    transformers = pytest.importorskip("transformers", reason=reason)
    import tokenizers

    fast = tokenizers.Tokenizer(tokenizers.models.BPE({"<s>": 0, "</s>": 1}, []))
    oracle = transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **SPECIAL_TOKENS)
    return oracle.apply_chat_template(
        messages, chat_template=source, tokenize=False, **{"add_generation_prompt": True, **options}
    )


def test_a_generation_prompt_opens_the_next_turn_by_default():
    assert render(CHATML) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render(CHATML, add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"


def test_special_tokens_are_names_in_the_template():
    assert render("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}") == "<s>Hi</s>"


def test_json_keeps_letters_and_markup_as_they_are():
    assert render("{{ messages[0].content | tojson }}", [{"role": "user", "content": "<ä>"}]) == '"<ä>"'


def test_further_keys_of_a_message_reach_the_template():
    assert render("{{ messages[0].name }}", [{"role": "user", "content": "Hi", "name": "Ada"}]) == "Ada"


def test_a_syntax_error_is_a_bundle_error_when_the_template_is_loaded():
    with pytest.raises(BundleError, match=r"is not valid Jinja: .*endfor.* in line 2; export"):
        ChatTemplate("\n{% for message in messages %}", {})


def test_an_unknown_filter_is_a_bundle_error_when_the_template_is_loaded():
    with pytest.raises(BundleError, match="No filter named 'shout'"):
        ChatTemplate("{{ messages | shout }}", {})


def test_a_refusal_by_the_template_is_an_input_error_with_its_words():
    with pytest.raises(InputError, match=r"the chat template refuses these messages: roles must alternate$"):
        render("{{ raise_exception('roles must\nalternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
        "{{ range(10000000) | length }}",
        "{{ missing.attribute }}",
        "{{ 1 // (messages | length - 1) }}",
        "{{ messages[0].content + 1 }}",
    ],
)
def test_a_failure_or_forbidden_step_in_the_template_is_one_line_of_an_error_of_its_own(source):
    with pytest.raises(ChatTemplateError, match=r"^the chat template fails on this conversation: \w+Error: .*$") as e:
        render(source)
    assert "\n" not in str(e.value)


def test_messages_are_left_as_they_were():
    messages = [dict(message) for message in CONVERSATION]
    render(EVERYTHING, messages)
    assert messages == CONVERSATION


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages must hold at least one message, got none; add a user message"),
        ("Hi", "messages must be a sequence of messages, got str"),
        ({"role": "user", "content": "Hi"}, "messages must be a sequence of messages, got dict"),
        (None, "messages must be a sequence of messages, got NoneType"),
        ([*USER, "Hi"], "message 1 must be a mapping with role and content, got str"),
        ([{"content": "Hi"}], "role of message 0 must be a string, got none"),
        ([{"role": "user", "content": None}], "content of message 0 must be a string, got NoneType"),
        ([{"role": "user", "content": [{"type": "text"}]}], "content of message 0 must be a string, got list"),
        (
            [{"role": "assistant", "content": None, "tool_calls": []}],
            "content of message 0 must be a string, got NoneType",
        ),
        ([{"role": "assistant"}], "content of message 0 must be a string, got none"),
        ([{"role": "assistant", "content": 1, "tool_calls": [1]}], "content of message 0 must be a string, got int"),
        (
            [{"role": "user", "content": "Hi", "name": {1}}],
            "name of message 0 must be a JSON value of 32 levels at most, got {1}",
        ),
    ],
)
def test_malformed_messages_are_input_errors(messages, message):
    with pytest.raises(InputError) as caught:
        render(CHATML, messages)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"messages": []}, "a template argument must not be called messages"),
        ({"bos_token": "x"}, "a template argument must not be called bos_token"),
        ({"raise_exception": 1}, "a template argument must not be called raise_exception"),
        ({"strftime_now": 1}, "a template argument must not be called strftime_now"),
        ({"namespace": 1}, "a template argument must not be called namespace"),
        ({"enable-thinking": 1}, "must be an identifier of 64 characters at most, got 'enable-thinking'"),
        ({"": 1}, "must be an identifier"),
        ({"a" * 65: 1}, "must be an identifier"),
        ({"x": object}, "x must be a JSON value of 32 levels at most, got <class 'object'>"),
        ({"x": {1: 2}}, "x must be a JSON value of 32 levels at most, got {1: 2}"),
        ({"x": float("nan")}, "x must be a JSON value of 32 levels at most, got nan"),
        ({"x": functools.reduce(lambda inner, _: [inner], range(33), 0)}, "x must be a JSON value of 32 levels"),
        ({"tools": {"name": "weather"}}, "the template argument tools must be a list or None, got dict"),
        ({"documents": "a"}, "the template argument documents must be a list or None, got str"),
        ({f"x{i}": 0 for i in range(33)}, "there must be 32 template arguments at most, got 33"),
        ({"x": "a" * (1 << 20)}, "template arguments must have 1048576 characters at most"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_template_arguments_are_input_errors(arguments, message):
    with pytest.raises(InputError) as caught:
        ChatTemplate(SWITCHES, SPECIAL_TOKENS).render(USER, **arguments)
    assert message in str(caught.value)


def test_a_value_that_holds_itself_is_an_input_error():
    endless = []
    endless += [endless, endless]
    with pytest.raises(InputError, match="1048576 characters at most"):
        render(SWITCHES, USER, x=endless)


def test_longer_arguments_may_take_more_output():
    source = "{% for _ in range(4) %}{{ x }}{% endfor %}"
    assert render(source, x="a" * 500_000) == "a" * 2_000_000
    with pytest.raises(ChatTemplateError, match="the chat template must write"):
        render("{% for _ in range(40) %}{{ 'a' * 50_000 }}{% endfor %}", x="a")
