"""`dovetail-ort generate`: prompts from everywhere, one answer."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import dovetail_ort
from dovetail_ort.cli.main import main
from dovetail_ort_runtime.bundle.bundle import sha256

PROMPT = "The tails hold the pins"


def test_prompt_longer_than_the_context_is_refused(tiny_bundle, refused):
    message = refused("generate", tiny_bundle, "word " * 600)
    assert "the prompt must have fewer than 512 tokens, got" in message


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_empty_prompt_is_refused(raw, tiny_bundle, refused):
    assert "the prompt is empty" in refused("generate", tiny_bundle, "", *raw)


def test_prompt_that_is_no_utf8_is_refused(tiny_bundle, refused, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    assert "must be UTF-8 text" in refused("generate", tiny_bundle)


def test_system_message_without_a_template_is_refused(tiny_bundle, refused):
    assert "--system needs a chat template" in refused("generate", tiny_bundle, "hi", "--raw", "--system", "x")


def test_generate_prints_the_answer_and_a_line_of_statistics(tiny_bundle, capsys):
    assert main(["generate", str(tiny_bundle), PROMPT, "--max-new-tokens", "20"]) == 0
    out, err = capsys.readouterr()
    options = dovetail_ort.GenerationOptions(max_new_tokens=20)
    answer = dovetail_ort.load(tiny_bundle).generate([{"role": "user", "content": PROMPT}], options)
    assert out == answer.text + "\n"
    assert err.startswith(f"[{len(answer.token_ids)} tokens")
    assert "exact" in err
    assert err.count("\n") == 1


def test_generate_reads_standard_input_without_its_last_line_break(tiny_bundle, capsys, monkeypatch):
    argv = ["generate", str(tiny_bundle), "--max-new-tokens", "8", "--quiet"]
    main([*argv, PROMPT])
    expected = capsys.readouterr().out
    for prompt in ([], ["-"]):
        monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT + "\n"))
        assert main([*argv, *prompt]) == 0
        assert capsys.readouterr().out == expected


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf{}\r\nand pins\r\n", b"{}\rand pins\n"])
def test_generate_reads_what_any_system_wrote(content, tiny_bundle, capsys, monkeypatch):
    argv = ["generate", str(tiny_bundle), "--max-new-tokens", "1", "--json"]
    main([*argv, f"{PROMPT}\nand pins"])
    expected = json.loads(capsys.readouterr().out)["statistics"]["prompt_tokens"]
    written = io.BytesIO(content.replace(b"{}", PROMPT.encode()))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(written, encoding="utf-8", newline="\n"))
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["statistics"]["prompt_tokens"] == expected


def test_raw_prompt_and_system_message_change_what_is_read(tiny_bundle, capsys):
    counts = []
    for extra in ([], ["--raw"], ["--system", "Be brief."]):
        main(["generate", str(tiny_bundle), PROMPT, "--json", "--max-new-tokens", "1", *extra])
        counts.append(json.loads(capsys.readouterr().out)["statistics"]["prompt_tokens"])
    plain, raw, system = counts
    assert raw < plain < system


def test_template_arguments_are_json_or_else_strings(change_manifest, damaged, capsys):
    template = damaged / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ [a, b, c, d] | tojson }}")

    def relist(manifest: dict[str, Any]) -> None:
        entry = next(entry for entry in manifest["files"] if entry["path"] == template.name)
        entry.update(num_bytes=template.stat().st_size, sha256=sha256(template))

    change_manifest(damaged, relist)
    given = [f"--template-argument={text}" for text in ("a=true", "b=x=1", 'c={"d": [1]}', "d=", "d=Zürich")]
    assert main(["generate", str(damaged), PROMPT, "--json", "--max-new-tokens", "1", *given]) == 0
    written = f'<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n[true, "x=1", {{"d": [1]}}, "Zürich"]'
    expected = len(dovetail_ort.load(damaged).tokenizer.encode(written, add_special_tokens=False))
    assert json.loads(capsys.readouterr().out)["statistics"]["prompt_tokens"] == expected


def test_template_arguments_of_a_raw_prompt_are_refused(tiny_bundle, refused):
    message = refused("generate", tiny_bundle, "hi", "--raw", "--template-argument", "enable_thinking=false")
    assert "template arguments need a prompt of messages" in message


def test_json_is_one_object_and_the_baseline_says_the_same(tiny_bundle, capsys):
    records = []
    for drafts in ("0", "8"):
        argv = ["generate", str(tiny_bundle), PROMPT, "--json", "--max-new-tokens", "24", "--max-draft-tokens", drafts]
        assert main(argv) == 0
        out, err = capsys.readouterr()
        assert err == ""
        records.append(json.loads(out))
    baseline, speculative = records
    assert baseline["statistics"]["drafted_tokens"] == 0
    assert (baseline["text"], baseline["token_ids"]) == (speculative["text"], speculative["token_ids"])
    assert baseline["finish_reason"] in ("stop", "length")
    assert baseline["exact"]


def test_special_tokens_are_shown_on_request_and_end_an_answer(tiny_bundle, capsys):
    def answer(seed: int, *extra: str) -> dict[str, Any]:
        sampling = ["--temperature", "2.5", "--seed", str(seed), "--max-new-tokens", "60"]
        assert main(["generate", str(tiny_bundle), "A dovetail", "--raw", "--json", *sampling, *extra]) == 0
        record: dict[str, Any] = json.loads(capsys.readouterr().out)
        return record

    tokenizer = dovetail_ort.load(tiny_bundle).tokenizer
    start = tokenizer.token_to_id("<|im_start|>")
    # One of 384 tokens: some seed has it among 60.
    records = ((seed, answer(seed)) for seed in range(200))
    seed, hidden = next((seed, record) for seed, record in records if start in record["token_ids"])
    shown = answer(seed, "--show-special-tokens")
    assert shown["token_ids"] == hidden["token_ids"]
    assert hidden["text"] == tokenizer.decode(hidden["token_ids"])
    assert shown["text"] == tokenizer.decode(hidden["token_ids"], skip_special_tokens=False)
    stopped = answer(seed, "--stop", "<|im_start|>")
    before = hidden["token_ids"][: hidden["token_ids"].index(start)]
    assert stopped["token_ids"] == [*before, start]
    assert (stopped["text"], stopped["finish_reason"]) == (tokenizer.decode(before), "stop")


def test_sampling_falls_back_to_the_bundle(change_manifest, damaged, capsys):
    def settings(manifest: dict[str, Any]) -> None:
        manifest["generation"].update(temperature=1.0, top_k=1)

    def answer(bundle: Path, *extra: str) -> list[int]:
        assert main(["generate", str(bundle), PROMPT, "--json", "--max-new-tokens", "16", "--seed", "1", *extra]) == 0
        token_ids: list[int] = json.loads(capsys.readouterr().out)["token_ids"]
        return token_ids

    greedy = answer(damaged)
    change_manifest(damaged, settings)
    assert answer(damaged) == greedy  # top_k = 1 comes from the bundle
    assert answer(damaged, "--top-k", "0") != greedy  # and can be overruled


def test_a_copy_of_the_target_drafts_for_it(tiny_bundle, capsys):
    arguments = ["generate", str(tiny_bundle), PROMPT, "--json", "--max-new-tokens", "30", "--temperature", "0"]
    # A copy costs what it saves, so the planner would hardly let it draft.
    assert main([*arguments, "--drafter", "lm", "--draft-bundle", str(tiny_bundle), "--chain", "4"]) == 0
    drafted = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--max-draft-tokens", "0"]) == 0
    assert drafted["token_ids"] == json.loads(capsys.readouterr().out)["token_ids"]
    assert drafted["statistics"]["accepted_tokens"] > 10


def test_a_shape_is_that_of_a_model_that_drafts(tiny_bundle, refused):
    assert "only a model drafts in a given shape, and the drafter auto has none here" in refused(
        "generate", tiny_bundle, "hi", "--chain", "3"
    )


def test_drafting_without_a_drafter_names_the_commands_that_make_one(tiny_bundle, refused):
    assert "make one with dovetail-ort train" in refused("generate", tiny_bundle, "hi", "--drafter", "dgf")
