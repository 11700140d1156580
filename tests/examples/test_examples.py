"""The examples run, on a tiny bundle with a drafter."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest

from dovetail_ort_runtime import Bundle

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(tiny_drafting_bundle):
    """`run(name, *arguments, text)`: what an example prints on the bundle."""

    def run_example(name, *arguments, text=""):
        command = [sys.executable, EXAMPLES / f"{name}.py", tiny_drafting_bundle, *arguments]
        done = subprocess.run(command, check=False, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_example


def test_the_demo_finds_that_both_ways_to_decode_give_one_answer(run):
    assert run("demo").count("yes, token for token") == 2


def test_streaming_prints_an_answer_and_its_statistics(run):
    answer, _, statistics = run("streaming", "Why?").rpartition("\n\n")
    assert answer
    assert statistics.endswith("tokens a round\n")


def test_a_second_turn_of_the_chat_reuses_the_first(run):
    reused = [line for line in run("chat", text="Hello\nAnd now?\n").splitlines() if "were in the cache" in line]
    cached = [int(line.strip("[").split()[0]) for line in reused]
    assert cached[0] == 0
    assert cached[1] > 20


def test_the_custom_drafter_changes_no_token(run):
    assert run("custom_drafter").endswith("the same tokens as without speculation: True\n")


def test_the_json_answer_follows_its_schema(run):
    answer = literal_eval(run("json_schema").splitlines()[-1])
    assert {key: type(value) for key, value in answer.items()} == {"city": str, "inhabitants": int, "is_capital": bool}


def test_logprobs_shows_the_chosen_token_beside_the_likeliest(run):
    lines = run("logprobs").splitlines()
    assert 1 <= len(lines) <= 24
    assert all(" of " in line for line in lines)


def test_the_fastapi_application_streams_an_answer_and_refuses_none(tiny_drafting_bundle, monkeypatch):
    testclient = pytest.importorskip("fastapi.testclient", reason="fastapi is not installed")
    monkeypatch.setenv("BUNDLE", str(tiny_drafting_bundle))
    monkeypatch.syspath_prepend(EXAMPLES)
    import fastapi_app

    with testclient.TestClient(fastapi_app.app) as client:
        given = client.post("/answer", json={"question": "Why?", "max_new_tokens": 8})
        assert given.status_code == 200
        assert given.text
        assert client.post("/answer", json={"question": ""}).status_code == 422
        assert client.post("/answer", json={"question": "why " * 2000}).status_code == 422


@pytest.mark.slow
def test_export_and_train_ends_with_an_answer_of_the_new_bundle(tiny_llama, tmp_path):
    command = [sys.executable, EXAMPLES / "export_and_train.py", tiny_llama, tmp_path / "bundle", "3000"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("tokens a round\n")
    assert Bundle(tmp_path / "bundle").manifest.drafter is not None
