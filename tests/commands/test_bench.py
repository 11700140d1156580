"""`dovetail-ort bench` compares two ways of decoding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dovetail_ort.cli.main import main
from dovetail_ort_runtime.model import Model

PROMPT = "The tails hold the pins"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Two prompts."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in (PROMPT, "pins " * 20)), encoding="utf-8")
    return path


def test_bench_compares_speculation_with_the_baseline(tiny_drafting_bundle, suite, capsys):
    argv = ["bench", str(tiny_drafting_bundle), "--suite", str(suite), "--max-new-tokens", "12", "--json"]
    assert main(argv) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["modes"]) == {"baseline", "speculative"}
    assert (record["num_identical"], record["exact"]) == (2, True)
    rate = {name: mode["decode_tokens_per_second"] for name, mode in record["modes"].items()}
    assert record["speedup"] == pytest.approx(rate["speculative"] / rate["baseline"])


def test_bench_fails_where_an_exact_bundle_answers_otherwise(tiny_bundle, suite, monkeypatch):
    generate = Model.generate

    def differing(model: Model, prompt: Any, options: Any, **settings: Any) -> Any:
        answer = generate(model, prompt, options, **settings)
        return replace(answer, token_ids=(*answer.token_ids, 0)) if options.max_draft_tokens else answer

    monkeypatch.setattr(Model, "generate", differing)
    argv = ["bench", str(tiny_bundle), "--suite", str(suite), "--max-new-tokens", "3", "--drafter", "lookup"]
    assert main(argv) == 1


def test_answers_of_one_token_time_no_decoding(tiny_bundle, suite, capsys):
    argv = ["bench", str(tiny_bundle), "--suite", str(suite), "--max-new-tokens", "1", "--drafter", "none"]
    assert main(argv) == 2
    assert "no decoding was timed" in capsys.readouterr().err.splitlines()[-1]
