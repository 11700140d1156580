"""Templates that would run for ever or take all memory, and those that only look like it."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_runtime.errors import BundleError, ChatTemplateError, DovetailError
from dovetail_ort_runtime.text import template_budget
from dovetail_ort_runtime.text.chat_template import LARGEST_TEMPLATE, ChatTemplate
from dovetail_ort_runtime.text.template_budget import WORK_PER_ELEMENT, TemplateBudget, TemplateLimitError, weight

USER = [{"role": "user", "content": "Hi there"}]
WORK, TIME, WIDTH = "take [0-9]+ units of work", "render within 0.3 seconds", "format with widths below 1000"
LOOP = "{{% for i in range(99999) %}}{}{{% endfor %}}"

ENDLESS = {
    "{% set x = 'a' * 10**10 %}": WORK,
    "{{ 10**9 * 'a' }}": WORK,
    "{{ messages * 10**8 }}": WORK,
    "{{ ('a' | e) * 10**9 }}": WORK,
    "{{ 10**(10**8) }}": "compute with integers of 4096 bits",
    "{% set n = namespace(i=3) %}" + LOOP.format("{% set n.i = n.i * n.i %}"): "compute with integers of 4096 bits",
    LOOP.format(LOOP.format(LOOP.format(""))): TIME,
    "{% macro f(x) %}{{ f(x - 1) ~ f(x - 1) if x }}{% endmacro %}{{ f(60) }}": TIME,
    "{% set c = cycler(1, 2) %}" + LOOP.format(LOOP.format("{{ c.next() }}")): TIME,
    "{{ range(100000) | select('in', range(100000) | map('string') | list) | list }}": f"{TIME}|{WORK}",
    # texts that double
    "{% set n = namespace(s='ab') %}" + LOOP.format("{% set n.s = n.s ~ n.s %}"): WORK,
    "{% set n = namespace(s='ab') %}" + LOOP.format("{% set n.s = n.s + n.s %}"): WORK,
    "{% set n = namespace(s='ab') %}" + LOOP.format("{% set n.s = n.s.replace('a', 'ab') * 2 %}"): WORK,
    "{% set n = namespace(s='a' * 999999) %}" + LOOP.format("{% set x = (n.s[1:], n.s[2:]) %}"): WORK,
    # containers that hold themselves twice
    "{% set n = namespace(l=['ha']) %}" + LOOP.format("{% set n.l = [n.l, n.l] %}") + "{{ n.l }}": WORK,
    "{% set n = namespace(l=('ha',)) %}" + LOOP.format("{% set n.l = (n.l, n.l) %}") + "{{ n.l }}": WORK,
    "{% set n = namespace(l={}) %}" + LOOP.format("{% set n.l = {1: n.l.items(), 2: n.l.items()} %}"): WORK,
    "{% set n = namespace(l={}) %}" + LOOP.format("{% set n.l = dict(a=n.l, b=n.l) %}"): WORK,
    "{% set n = namespace(l=[]) %}{% macro m() %}{% set n.l = varargs %}{% endmacro %}"
    + LOOP.format("{{ m(n.l, n.l) }}"): WORK,
    # one step that multiplies
    "{{ ('a' * 99999).join(range(99999) | map('string')) }}": WORK,
    "{{ range(99999) | join('a' * 99999) }}": WORK,
    "{{ ('a' * 99999).replace('a', 'a' * 99999) }}": WORK,
    "{{ ('a' * 99999) | replace('a', 'a' * 99999) }}": WORK,
    "{{ (('a' * 99999) | e).replace('a', 'a' * 99999) }}": WORK,
    "{{ ('{0}' * 99999).format('a' * 99999) }}": WORK,
    "{{ ('{a}' * 99999).format_map({'a': 'a' * 99999}) }}": WORK,
    "{{ ('%(a)s' * 99999) % {'a': 'a' * 99999} }}": WORK,
    "{{ ('%(a)s' * 99999) | format(a='a' * 99999) }}": WORK,
    "{{ 'a\nb' | indent(10**10) }}": WORK,
    "{{ messages | tojson(indent=10**10) }}": "indent JSON by 16 at most",
    "{{ '%1000000000d' % 1 }}": WIDTH,
    "{{ '%(a)*d' % {'a': 1} }}": WIDTH,
    "{{ '%.999999999f' | format(1.5) }}": WIDTH,
    "{{ '{:>999999999}'.format(1) }}": WIDTH,
    "{{ '{:>{}}'.format(1, 10**9) }}": WIDTH,
    "{{ '%(a' % {'a': 1} }}": WIDTH,
    "{{ '%((a)b)999999999d' % {'(a)b': 1} }}": WIDTH,
    "{{ '%(a(b))999999999d' % {'a(b)': 1} }}": WIDTH,
    "{{ ('a' * 999999).rsplit(sep='a' * 9999 ~ 'b') }}": "strip and search from the end for 100 characters",
    "{{ '%(%)999999999d' % {'%': 1} }}": WIDTH,
    "{{ '%%%9999d' % 1 }}": WIDTH,
    "{{ ('{' ~ ':' * 999999).format(1) }}": WIDTH,
    # steps that take as long as two texts multiplied
    "{{ ('a' * 999999).strip('b' * 999999 ~ 'a') }}": "strip and search from the end for 100 characters",
    "{{ ('a' * 999999) | trim('b' * 999999 ~ 'a') }}": "strip and search from the end for 100 characters",
    "{{ ('a' * 999999).rfind('a' * 9999 ~ 'b' ~ 'a' * 9999) }}": "strip and search from the end for 100 characters",
    "{{ 5 | round(-(10**9)) }}": "round to 100 digits at most",
    "{{ 5 | round(10**9, 'ceil') }}": "round to 100 digits at most",
    "{{ strftime_now('%Y' * 99999) }}": "ask for dates in 100 characters",
    # output
    LOOP.format("x" * 2000): "write [0-9]+ characters at most",
    "{% macro m() %}" + LOOP.format("x" * 20000) + "{% endmacro %}{% set x = m() %}": WORK,
    "{% set x %}" + LOOP.format("{{ messages[0].content * 999 }}") + "{% endset %}": WORK,
}

REFUSED = {
    "{{ 'a'.center(10**9) }}": "access to attribute 'center' of 'str' object is unsafe",
    "{{ (1).to_bytes(10**9, 'big') }}": "access to attribute 'to_bytes' of 'int' object is unsafe",
    "{{ {}.fromkeys([1]) }}": "access to attribute 'fromkeys' of 'dict' object is unsafe",
    "{{ 'a' | center(10**9) }}": "No filter named 'center'",
    "{{ lipsum(10**6) }}": "'lipsum' is undefined",
    "{{ range(10**9) | list }}": "Range too big",
    "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}": "recursive loops are not for chat templates",
    "{% autoescape true %}{% endautoescape %}": "autoescape is not for chat templates",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError",
    "{% block a %}{{ self.a() }}{% endblock %}": "RecursionError",
    "{% include '/etc/hostname' %}": "no loader for this environment",
    "{% import 'os' as os %}": "no loader for this environment",
    "{{ " + "(" * 9999 + ")" * 9999 + " }}": "recursion",
    "{{ " + "9" * 5000 + " }}": "is not valid Jinja: Exceeds the limit",
    "{% for a in [1] %}" * 60 + "{% endfor %}" * 60: "is not valid Jinja: too many statically nested blocks",
    "{{ messages | format(1, a=2) }}": "positional and keyword arguments",
    " " * (LARGEST_TEMPLATE + 1): "the chat template must have 262144 characters at most",
}


def render(source, messages=USER):
    return ChatTemplate(source, {}).render(messages)


@pytest.mark.parametrize("source", ENDLESS)
def test_a_template_without_end_is_stopped(source, monkeypatch):
    monkeypatch.setattr(template_budget, "SECONDS", 0.3 if TIME in ENDLESS[source] else 30)
    with pytest.raises(ChatTemplateError, match=f"^the chat template must ({ENDLESS[source]})") as caught:
        render(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", REFUSED)
def test_what_chat_templates_do_without_is_refused(source):
    with pytest.raises(BundleError, match=REFUSED[source]) as caught:
        render(source)
    assert "\n" not in str(caught.value)


GIGABYTE = """
import json, resource, sys
from dovetail_ort_runtime.text import template_budget
from dovetail_ort_runtime.text.chat_template import ChatTemplate
from dovetail_ort_runtime.errors import BundleError

template_budget.SECONDS = 0.3
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for source in json.load(sys.stdin):
    try:
        ChatTemplate(source, {}).render([{"role": "user", "content": "Hi there"}])
        sys.exit("rendered: " + source[:200])
    except BundleError as error:
        if "MemoryError" in str(error):
            sys.exit(f"{error}: {source[:200]}")
"""


def test_no_template_takes_a_gigabyte():
    sources = json.dumps([*ENDLESS, *REFUSED])
    subprocess.run([sys.executable, "-c", GIGABYTE], input=sources, text=True, check=True, timeout=120)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ ''.__class__ }}{{ self.__init__ }}{{ (messages | map('upper')).gi_frame }}", ""),
        ("{{ namespace(a=1) }}", "<Namespace>"),
        ("{{ '**%s** %d %%' % ('a', 5) }}{{ '%5.2f' | format(1.5) }}", "**a** 5 % 1.50"),
        ("{{ '{{}} {} {:*>3}'.format('a', 5) }}{{ '{a}'.format_map({'a': 1}) }}", "{} a **51"),
        ("{{ 'a-b'.split('-') | join('+') }}{{ ', '.join(messages[0].keys()) }}", "a+brole, content"),
        ("{{ messages | join('|', attribute='role') }}{{ 'aaa' | replace('a', 'b', 2) }}", "userbba"),
        (
            "{{ '%999999999d' is even }}{{ '%d' is divisibleby 1 }}{{ 4 is even }}{{ 9 is divisibleby 3 }}",
            "FalseFalseTrueTrue",
        ),
        ("{{ '100%% of %s, 2024' % 'it' }}{{ '%(a)s 2024' % {'a': 1} }}", "100% of it, 20241 2024"),
        ("{{ ' a-' | trim(' -') }}{{ 2.345 | round(2) }}{{ 'a/b/c'.rsplit('/', 1)[0] }}", "a2.35a/b"),
        ("{{ 'a\nb' | indent(2, first=true) }}", "  a\n  b"),
        ("{% for a, b in {'x': 1}.items() %}{{ loop.last }}{{ a ~ b }}{% endfor %}", "Truex1"),
        ("{% set a, b = (1, 2) %}{{ [a, b] + [3] * 2 }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ -7 % 4 }}", "[1, 2, 3, 3]310241"),
        ("{% for x in range(4) if x is odd %}{{ x }}{% else %}none{% endfor %}", "13"),
        ("{% filter upper %}{{ 'a' }}b{% endfilter %}{% set t %}c{{ 1 }}{% endset %}{{ t[0] }}{{ t[1:] }}", "ABc1"),
    ],
)
def test_what_jinja_does_it_still_does(source, text):
    assert render(source) == text


def test_a_long_conversation_may_take_more_than_a_short_one():
    messages = [{"role": "user", "content": "word " * 2000}] * 100
    quadratic = (
        "{% set n = namespace(s='') %}{% for m in messages %}{% set n.s = n.s ~ m.content %}{% endfor %}{{ n.s }}"
    )
    assert len(render(quadratic, messages)) == 100 * 10_000


def test_two_renderings_at_once_have_a_budget_each():
    template = ChatTemplate("{% for i in range(6) %}{% set x = 'a' * 999999 %}{% endfor %}done", {})
    with ThreadPoolExecutor(4) as pool:
        texts = set(pool.map(lambda _: template.render(USER), range(8)))
    assert texts == {"done"}


def test_weight_counts_what_is_held_as_often_as_it_is_held():
    text = "abcd"
    assert weight(text) == WORK_PER_ELEMENT + 4
    assert weight([text, text]) == WORK_PER_ELEMENT + 2 * weight(text)
    assert weight({"a": 1}.items()) == 4 * WORK_PER_ELEMENT + 1
    assert weight(1 << 800) == WORK_PER_ELEMENT + 100


def test_weight_stops_where_it_is_enough():
    doubled = [0]
    for _ in range(200):
        doubled = [doubled, doubled]
    assert 1000 < weight(doubled, enough=1000) < 2000


def test_a_spent_budget_says_so():
    budget = TemplateBudget("")
    with pytest.raises(TemplateLimitError, match=r"^take 16779264 units of work at most, got more$"):
        budget.charge(1 << 30)


PIECES = st.sampled_from(
    [
        *("{% for m in messages %}", "{% endfor %}", "{% if m %}", "{% else %}", "{% endif %}", "{% break %}"),
        *("{% set x = m %}", "{% set x = messages %}", "{% set n = namespace(a=x) %}", "{% macro f(a) %}"),
        *("{% endmacro %}", "{% generation %}", "{% endgeneration %}", "{%- filter upper %}", "{% endfilter %}"),
        *("{% call f(1) %}", "{% endcall %}", "{{ caller() }}", "{{ f(f) }}", "{{ loop.index }}", "{{ m.content }}"),
        *("{{ m | tojson }}", "{{ x ~ x }}", "{{ n.a * 3 }}", "{{ messages[::-1] | list }}", "{{ x.items() }}"),
        *(
            "{{ -x }}",
            "{{ x ** 9 }}",
            "{{ [x, x] | sort }}",
            "{{ '%s' % x }}",
            "{{ raise_exception(x) }}",
            "{{ no.a }}",
        ),
        *("{{ x[0:2] }}", "{{ x | map('upper') | list }}", "{{ dict(a=x) }}", "{{ x | indent(x) }}"),
    ]
)


@given(st.lists(PIECES | st.text(max_size=6), max_size=12), st.text(max_size=8))
def test_any_template_renders_or_is_refused(pieces, content):
    message = ""
    try:
        render("".join(pieces), [{"role": "user", "content": content}])
    except DovetailError as error:
        message = str(error)
    assert "\n" not in message
