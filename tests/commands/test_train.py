"""`dovetail-ort train`: from a bundle to a head that drafts for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dovetail_ort.cli.main import main

PROMPT = "The tails hold the pins"


@pytest.fixture
def tiny_training(tiny_bundle: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """`tiny_training(*more)`: arguments of a training that takes seconds."""
    sizes = {"num-answer-tokens": 600, "max-answer-tokens": 30, "num-parallel": 8, "num-epochs": 1, "threads": 1}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    return lambda *more: ["train", str(tiny_bundle), str(tmp_path / "head"), *options, *more]


def test_a_head_is_trained_attached_and_drafts_the_same_answers(tiny_bundle, tiny_training, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "What holds the pins?"}\n')
    assert main(tiny_training("--prompts", str(prompts))) == 0
    out, err = capsys.readouterr()
    assert "accepted" in out
    assert "on held-out text" in out
    assert f"dovetail-ort attach {tiny_bundle} {tmp_path / 'head'}" in out
    assert "training on" in err
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    assert main(["attach", str(bundle), str(tmp_path / "head")]) == 0
    assert "gating, 1 block, 0.1 million parameters, int4, 384 tokens" in capsys.readouterr().out
    answers = []
    # The planner would hardly let a head draft whose forward takes as long as the target's.
    for drafter in (["--drafter", "dgf", "--chain", "2"], ["--drafter", "none"], []):
        assert (
            main(["generate", str(bundle), PROMPT, "--json", "--max-new-tokens", "30", "--temperature", "0", *drafter])
            == 0
        )
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0]["token_ids"] == answers[1]["token_ids"] == answers[2]["token_ids"]
    assert answers[0]["statistics"]["drafted_tokens"] > 0 == answers[1]["statistics"]["drafted_tokens"]
    assert main(["inspect", str(bundle)]) == 0
    assert "drafter         gating, 1 block" in capsys.readouterr().out


def test_training_on_prompts_in_a_wrong_format_is_refused(tiny_training, refused, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"question": "What holds the pins?"}\n')
    assert 'prompts.jsonl:1 must have "prompt", a string, or "messages", a list' in refused(
        *tiny_training("--prompts", str(prompts))
    )


def test_training_goes_on_from_a_head_only(tiny_training, refused, tmp_path):
    assert "a draft head must be a directory with a head.json" in refused(*tiny_training("--start", str(tmp_path)))


def test_training_for_a_bundle_that_does_not_name_its_weights_is_refused(change_manifest, damaged, tmp_path, capsys):
    change_manifest(damaged, lambda manifest: manifest["target"].update(weights_sha256=None))
    assert main(["train", str(damaged), str(tmp_path / "head")]) == 2
    assert "this bundle is too old to name the weights it was made from" in capsys.readouterr().err
