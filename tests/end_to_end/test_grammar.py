"""Answers under a grammar, and grammars that are refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

import dovetail_ort
from dovetail_ort import DovetailError, GenerationOptions, GrammarCompiler
from dovetail_ort.grammar import MAX_GRAMMAR_CHARACTERS, on_deep_stack

SCHEMA = {
    "type": "object",
    "properties": {"wood": {"enum": ["oak", "ash", "beech"]}, "pins": {"type": "integer", "minimum": 2, "maximum": 9}},
    "required": ["wood", "pins"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # a random model would write blanks for ever
}


@pytest.fixture(scope="module")
def model(tiny_drafting_bundle):
    with dovetail_ort.load(tiny_drafting_bundle, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def compiler(model):
    return GrammarCompiler(model)


@pytest.mark.parametrize("max_draft_tokens", [0, 8])
def test_an_answer_under_a_schema_is_json_of_it_with_and_without_drafts(model, compiler, max_draft_tokens):
    options = GenerationOptions(
        max_new_tokens=100, max_draft_tokens=max_draft_tokens, constraint=compiler.json_schema(SCHEMA)
    )
    answer = model.generate("A dovetail joint", options)
    found = json.loads(answer.text)
    assert answer.finish_reason == "stop"
    assert found["wood"] in ("oak", "ash", "beech")
    assert 2 <= found["pins"] <= 9


def test_drafts_change_no_answer_under_a_regular_expression(model, compiler):
    answers = []
    for max_draft_tokens in (0, 8):
        model.reset()
        options = GenerationOptions(
            max_new_tokens=60, max_draft_tokens=max_draft_tokens, constraint=compiler.regex("(tail|pin)( (tail|pin))*")
        )
        answers.append(model.generate("tail pin tail pin", options))
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[1].statistics.accepted_tokens > 0


@pytest.mark.parametrize(
    ("kind", "grammar", "message"),
    [
        ("json_schema", [], "a JSON schema must be an object, got list"),
        ("json_schema", {"type": "object", "properties": {1: object()}}, "the schema cannot be written as JSON: "),
        ("json_schema", {"type": "nothing"}, "llguidance cannot follow this JSON schema: "),
        ("regex", "(", "llguidance cannot follow this regular expression: "),
        ("regex", 5, "a regular expression must be text, got int"),
        ("lark", "start: nowhere", "llguidance cannot follow this Lark grammar: "),
        ("lark", " " * (MAX_GRAMMAR_CHARACTERS + 1), "a Lark grammar must have 20000 characters or fewer, got 20001"),
    ],
    ids=str,
)
def test_what_is_no_grammar_is_an_error_of_one_line(compiler, kind, grammar, message):
    with pytest.raises(DovetailError) as found:
        getattr(compiler, kind)(grammar)
    assert str(found.value).startswith(message)
    assert "\n" not in str(found.value)


NESTED = """
import sys, threading
import dovetail_ort

compiler = dovetail_ort.GrammarCompiler(dovetail_ort.load(sys.argv[1], threads=1, drafter="none"))
rules = ["start: R0", *(f'R{number}: "a" R{number + 1}' for number in range(1000)), 'R1000: "b"']
threading.stack_size(1 << 20)
thread = threading.Thread(target=lambda: print(compiler.lark("\\n".join(rules)).start().allowed().sum() > 0))
thread.start()
thread.join()
"""


def test_rules_that_nest_a_thousand_deep_compile_in_a_thread_with_a_small_stack(tiny_bundle):
    """In a process of its own, which an overflow would end: llguidance recurses with the rules."""
    output = subprocess.run(
        [sys.executable, "-c", NESTED, str(tiny_bundle)], check=True, capture_output=True, text=True
    ).stdout
    assert output.strip() == "True"


def test_parentheses_beyond_any_use_are_an_error(compiler):
    with pytest.raises(DovetailError, match="llguidance cannot follow this Lark grammar"):
        compiler.lark(f'start: {"(" * 9000}"a"{")" * 9000}')


def test_a_call_on_a_deep_stack_returns_and_raises_as_any_and_leaves_the_usual_size():
    usual = threading.stack_size()
    assert on_deep_stack(lambda: 5) == 5
    with pytest.raises(KeyError, match="on purpose"):
        on_deep_stack(lambda: {}["on purpose"])
    assert threading.stack_size() == usual
