"""Answers held to a schema or an expression: valid, and the same with and without speculation."""

from __future__ import annotations

import json
import re

import openai
import pytest

from dovetail_ort_runtime.options import GenerationOptions

SCHEMA = {
    "type": "object",
    "properties": {
        "joint": {"enum": ["dovetail dovetail dovetail", "mortise"]},
        "pins": {"type": "integer", "minimum": 1, "maximum": 99},
        "why": {"type": "string", "maxLength": 20},
    },
    "required": ["joint", "pins", "why"],
    "additionalProperties": False,
    # A random model would put white space between two tokens of JSON for ever.
    "x-guidance": {"whitespace_flexible": False},
}
QUESTION = [{"role": "user", "content": 'Answer as {"joint": "dovetail dovetail dovetail", "pins": 12, "why": "so"}'}]
FORMATS = {
    "schema": {"type": "json_schema", "json_schema": {"name": "joint", "schema": SCHEMA, "strict": True}},
    "regex": {"type": "regex", "regex": "(dovetail ){6}[a-z]{1,8}"},
}
SAMPLINGS = ({"temperature": 0}, {"temperature": 1, "seed": 4}, {"temperature": 1, "seed": 5, "top_p": 0.9})


@pytest.fixture(scope="module")
def answers(model, serving):
    """Completions by (draft tokens, format, sampling)."""
    found = {}
    for max_draft_tokens in (0, 8):
        options = GenerationOptions(max_new_tokens=120, max_draft_tokens=max_draft_tokens)
        with serving(model, answer=options) as served, served.client() as client:
            for name, rule in FORMATS.items():
                for place, sampling in enumerate(SAMPLINGS):
                    found[max_draft_tokens, name, place] = client.chat.completions.create(
                        model="tiny", messages=QUESTION, response_format=rule, **sampling
                    )
    return found


@pytest.mark.parametrize("sampling", range(len(SAMPLINGS)))
@pytest.mark.parametrize("name", FORMATS)
def test_constrained_answers_are_the_same_with_and_without_speculation(answers, name, sampling):
    baseline, speculative = answers[0, name, sampling], answers[8, name, sampling]
    assert speculative.choices[0].message.content == baseline.choices[0].message.content
    assert speculative.choices[0].finish_reason == baseline.choices[0].finish_reason == "stop"
    assert baseline.usage.completion_tokens_details.accepted_prediction_tokens == 0


@pytest.mark.parametrize("name", FORMATS)
def test_drafts_are_accepted_under_a_constraint(answers, name):
    accepted = [
        answer.usage.completion_tokens_details.accepted_prediction_tokens
        for (max_draft_tokens, of, _), answer in answers.items()
        if of == name and max_draft_tokens
    ]
    assert sum(accepted) > 0


def test_answers_follow_their_rule(answers):
    for (_, name, _), answer in answers.items():
        text = answer.choices[0].message.content
        if name == "regex":
            assert re.fullmatch(FORMATS["regex"]["regex"], text)
            continue
        value = json.loads(text)
        assert list(value) == ["joint", "pins", "why"]
        assert value["joint"] in SCHEMA["properties"]["joint"]["enum"]
        assert 1 <= value["pins"] <= 99
        assert len(value["why"]) <= 20


def test_a_stream_is_held_to_the_rule_as_well(client):
    asked = {"model": "tiny", "messages": QUESTION, "response_format": FORMATS["regex"]}
    chunks = client.chat.completions.create(**asked, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == client.chat.completions.create(**asked).choices[0].message.content


def test_json_object_begins_an_object(client):
    answer = client.chat.completions.create(
        model="tiny", messages=QUESTION, response_format={"type": "json_object"}, max_tokens=20
    )
    assert answer.choices[0].message.content.startswith("{")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"type": "regex", "regex": "(unclosed"}, "llguidance cannot follow this regular expression"),
        ({"type": "regex"}, "response_format.regex must be a regular expression"),
        ({"type": "grammar"}, "response_format.type must be text, json_object, json_schema or regex"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "json_schema.schema must be a JSON schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "joint"}}},
            "llguidance cannot follow this JSON schema",
        ),
        ({"type": "regex", "regex": "a" * 20_001}, "must have 20000 characters or fewer"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(client, rule, said):
    with pytest.raises(openai.BadRequestError, match=re.escape(said)):
        client.chat.completions.create(model="tiny", messages=QUESTION, response_format=rule)
