"""The command line as its users meet it: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dovetail_ort
from dovetail_ort.cli.main import main
from dovetail_ort.commands import COMMANDS
from dovetail_ort.commands.chat import Conversation
from dovetail_ort.commands.graph import COMMANDS as GRAPH_COMMANDS
from dovetail_ort.suites import load_suite
from dovetail_ort_runtime.bundle.bundle import sha256
from dovetail_ort_runtime.machine import onnx_runtime
from dovetail_ort_runtime.model import Model

PROMPT = "The tails hold the pins"


@pytest.fixture
def damaged(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "damaged"))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refused(*argv)`: the one line that a refused command prints."""

    def run(*argv: object) -> str:
        status = main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        assert (status, out) == (2, "")
        assert err.startswith("dovetail-ort")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        return err

    return run


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


# Help and version


def test_module_prints_help():
    result = subprocess.run(
        [sys.executable, "-m", "dovetail_ort", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in result.stdout for name in COMMANDS)
    assert result.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_shows_an_example(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"  dovetail-ort {name} " in capsys.readouterr().out


@pytest.mark.parametrize("name", GRAPH_COMMANDS)
def test_help_of_each_command_on_graphs_shows_an_example(name, capsys):
    assert main(["graph", name, "--help"]) == 0
    assert re.search(rf"^  dovetail-ort graph {name}\b", capsys.readouterr().out, re.MULTILINE)


def test_help_imports_no_torch():
    code = "import sys, dovetail_ort.cli.main as cli; cli.main(['export', '--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


def test_version(capsys):
    assert main(["--version"]) == 0
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"dovetail-ort {project['version']}\n"


# Bad input: one line, status 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "dovetail-ort: a command must be given; see dovetail-ort --help"),
        (["paint"], "invalid choice: 'paint'"),
        (["graph"], "dovetail-ort graph: a command must be given; see dovetail-ort graph --help"),
        (["graph", "paint"], "dovetail-ort graph: argument COMMAND: invalid choice: 'paint'"),
        (["graph", "apply", "bundle", "out"], "the following arguments are required: --pass"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["generate"], "the following arguments are required: BUNDLE"),
        (["generate", "bundle", "hi", "--bogus"], "dovetail-ort generate: unrecognized arguments: --bogus; see"),
        (["generate", "bundle", "hi", "--quie"], "unrecognized arguments: --quie"),
        (["generate", "bundle", "hi", "--no-exact"], "unrecognized arguments: --no-exact"),
        (["generate", "bundle", "hi", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["generate", "bundle", "hi", "--bo\ngus"], "unrecognized arguments: --bo gus"),
        (["export", "source", "out", "--precision", "int3"], "invalid choice: 'int3'"),
        (["export", "source", "out", "--format", "row"], "invalid choice: 'row'"),
        (["export", "source", "out", "--max-context", "-5"], "max_context must be 2 or more, got -5"),
        (["train", "bundle", "out", "--num-blocks", "9"], "num_blocks must be between 1 and 6, got 9"),
        (["train", "bundle", "out", "--fusion", "sum"], "invalid choice: 'sum'"),
        (["attach", "bundle", "head", "--precision", "int3"], "invalid choice: 'int3'"),
        (["generate", "bundle", "hi", "--template-argument", "x"], "must be NAME=VALUE such as enable_thinking=false"),
        (
            ["chat", "bundle", "--template-argument", "a-b=1"],
            "must be an identifier of 64 characters at most, got 'a-b'",
        ),
        (["bench", "bundle", "--template-argument", "messages=[]"], "must not be called messages"),
        (["generate", "bundle", "hi", "--drafter", "eagle"], "invalid choice: 'eagle'"),
        (["generate", "bundle", "hi", "--chain", "0"], "argument --chain: must be a number of 1 or more, got '0'"),
        (["generate", "bundle", "hi", "--chain", "2", "--tree", "7/4/1"], "not allowed with argument"),
        (["generate", "bundle", "hi", "--tree", "7/4"], "argument --tree: must be three numbers such as 7/4/10"),
        (["bench", "bundle", "--tree", "0/1/1"], "a tree must have T >= 1, D >= 0, k >= 1, got 0/1/1"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(argv, message, refused):
    assert message in refused(*argv)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--max-new-tokens", "-1", "max_new_tokens must be 1 or more, got -1"),
        ("--max-draft-tokens", "-1", "max_draft_tokens must be 0 or more, got -1"),
        ("--temperature", "-0.5", "temperature must be 0 or more, got -0.5"),
        ("--temperature", "nan", "temperature must be 0 or more, got nan"),
        ("--top-p", "2", "top_p must be above 0 and at most 1, got 2.0"),
        ("--threads", "0", "threads must be 1 or more, got 0"),
        ("--max-context", "513", "max_context must be between 2 and the bundle's 512, got 513"),
        ("--stop", "", "a stop string must be"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_options_out_of_bounds_are_refused(command, option, value, message, tiny_bundle, refused, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert message in refused(command, tiny_bundle, option, value, *(["hi"] if command == "generate" else []))


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
    assert "answers of two tokens or more to be timed, got none" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", ["generate", "chat", "inspect", "doctor", "bench"])
def test_missing_bundle_is_refused(command, tmp_path, refused):
    message = refused(command, tmp_path / "nowhere")
    assert "a bundle must be a directory with a manifest.json" in message
    assert "make one with: dovetail-ort export" in message


@pytest.mark.parametrize("command", ["generate", "inspect", "doctor"])
def test_truncated_file_is_refused(command, damaged, refused):
    weights = damaged / "model_native.onnx_data"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "model_native.onnx_data must have" in refused(command, damaged)


def test_missing_file_is_refused(damaged, refused):
    (damaged / "tokenizer.json").unlink()
    assert "must have the file 'tokenizer.json', which is missing" in refused("generate", damaged, PROMPT)


def test_altered_small_file_is_refused(damaged, refused):
    template = damaged / "chat_template.jinja"
    template.write_text(template.read_text().swapcase())
    assert "the file was altered" in refused("generate", damaged, PROMPT)


def test_verify_finds_an_alteration_that_opening_does_not_look_for(damaged, refused, monkeypatch, capsys):
    monkeypatch.setattr("dovetail_ort_runtime.bundle.bundle.SMALL_FILE_BYTES", 0)
    weights = damaged / "model_native.onnx_data"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert main(["inspect", str(damaged)]) == 0
    capsys.readouterr()
    for argv in (["inspect", str(damaged), "--verify"], ["generate", str(damaged), PROMPT, "--verify", "all"]):
        assert main(argv) == 2
        assert "model_native.onnx_data must have the SHA-256" in capsys.readouterr().err


def test_unknown_manifest_version_is_refused(damaged, refused):
    change_manifest(damaged, lambda manifest: manifest.update(version=99))
    assert "the manifest's version must be 2 or 1, got 99; export the bundle again" in refused(
        "generate", damaged, PROMPT
    )


def test_manifest_that_is_no_json_is_refused(damaged, refused):
    (damaged / "manifest.json").write_text("{")
    assert "manifest.json must be JSON" in refused("inspect", damaged)


@pytest.mark.parametrize("path", ["../outside.json", "/etc/hostname"])
def test_path_that_leaves_the_bundle_is_refused(path, damaged, refused):
    (damaged.parent / "outside.json").write_text("{}")
    change_manifest(damaged, lambda manifest: manifest["files"][0].update(path=path))
    assert "a path in the manifest must stay inside the bundle" in refused("generate", damaged, PROMPT)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: bytes(len(content)), "must be a graph that stays inside its bundle"),
        (lambda content: content.replace(b"Gather", b"Gathez"), "must load in ONNX Runtime"),
    ],
)
def test_graph_that_does_not_load_is_refused_in_one_line(damaged, refused, damage, message):
    graph = damaged / "model_native.onnx"
    graph.write_bytes(damage(graph.read_bytes()))

    def forge(manifest: dict[str, Any]) -> None:
        entry = next(entry for entry in manifest["files"] if entry["path"] == graph.name)
        entry["sha256"] = sha256(graph)

    change_manifest(damaged, forge)
    assert f"model_native.onnx {message}" in refused("generate", damaged, PROMPT)


def test_prompt_longer_than_the_context_is_refused(tiny_bundle, refused):
    message = refused("generate", tiny_bundle, "word " * 600)
    assert "the prompt must have fewer than 512 tokens, got" in message


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_empty_prompt_is_refused(raw, tiny_bundle, refused):
    assert "the prompt must have one character or more" in refused("generate", tiny_bundle, "", *raw)


def test_prompt_that_is_no_utf8_is_refused(tiny_bundle, refused, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    assert "must be UTF-8 text" in refused("generate", tiny_bundle)


def test_system_message_without_a_template_is_refused(tiny_bundle, refused):
    assert "--system must go through a chat template" in refused(
        "generate", tiny_bundle, "hi", "--raw", "--system", "x"
    )


def test_chat_without_a_template_is_refused(damaged, refused):
    change_manifest(damaged, lambda manifest: manifest["tokenizer"].update(chat_template=None))
    assert "use dovetail-ort generate --raw" in refused("chat", damaged)


def test_disk_and_memory_errors_are_one_line(tiny_bundle, refused, monkeypatch):
    def fail(error: Exception) -> Callable[..., None]:
        def raise_error(*_: object, **__: object) -> None:
            raise error

        return raise_error

    monkeypatch.setattr(Model, "generate", fail(OSError(28, "No space left on device", "/some/file")))
    assert "No space left on device: /some/file" in refused("generate", tiny_bundle, PROMPT, "--json")
    monkeypatch.setattr(Model, "generate", fail(OSError("10368 requested and 128 written")))
    assert "is the disk full?" in refused("generate", tiny_bundle, PROMPT, "--json")
    monkeypatch.setattr(Model, "generate", fail(MemoryError("Unable to allocate 9 TiB")))
    assert "out of memory: Unable to allocate 9 TiB; take a smaller" in refused(
        "generate", tiny_bundle, PROMPT, "--json"
    )


# Generate


def test_generate_prints_the_answer_and_a_line_of_statistics(tiny_bundle, capsys):
    assert main(["generate", str(tiny_bundle), PROMPT, "--max-new-tokens", "20"]) == 0
    out, err = capsys.readouterr()
    options = dovetail_ort.GenerationOptions(max_new_tokens=20)
    answer = dovetail_ort.load(tiny_bundle).generate([{"role": "user", "content": PROMPT}], options)
    assert out == answer.text + "\n"
    assert err.startswith(f"[{len(answer.token_ids)} tokens")
    assert "exact" in err
    assert err.count("\n") == 1


def test_options_may_stand_between_bundle_and_prompt(tiny_bundle, capsys):
    assert main(["generate", str(tiny_bundle), "--raw", "--quiet", PROMPT, "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().err == ""


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


def test_prompts_of_a_suite_may_have_marks_and_separators(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b\xe2\x80\xa8c"}\n')
    assert [prompt.messages[0]["content"] for prompt in load_suite(str(path))] == ["a", "b\u2028c"]


def test_raw_prompt_and_system_message_change_what_is_read(tiny_bundle, capsys):
    counts = []
    for extra in ([], ["--raw"], ["--system", "Be brief."]):
        main(["generate", str(tiny_bundle), PROMPT, "--json", "--max-new-tokens", "1", *extra])
        counts.append(json.loads(capsys.readouterr().out)["statistics"]["prompt_tokens"])
    plain, raw, system = counts
    assert raw < plain < system


def test_template_arguments_are_json_or_else_strings(damaged, capsys):
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
    assert "template arguments must go with messages" in message


def test_json_is_one_object_and_plain_decoding_says_the_same(tiny_bundle, capsys):
    records = []
    for drafts in ("0", "8"):
        argv = ["generate", str(tiny_bundle), PROMPT, "--json", "--max-new-tokens", "24", "--max-draft-tokens", drafts]
        assert main(argv) == 0
        out, err = capsys.readouterr()
        assert err == ""
        records.append(json.loads(out))
    plain, speculative = records
    assert plain["statistics"]["drafted_tokens"] == 0
    assert (plain["text"], plain["token_ids"]) == (speculative["text"], speculative["token_ids"])
    assert plain["finish_reason"] in ("stop", "length")
    assert plain["exact"]


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


def test_sampling_falls_back_to_the_bundle(damaged, capsys):
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


def test_accepted_draft_tokens_are_tinted_on_a_terminal_only(tiny_bundle, capsys, monkeypatch):
    argv = ["generate", str(tiny_bundle), "pins", "--raw", "--show-drafted", "--max-new-tokens", "20", "--quiet"]
    # The target itself drafts: all is accepted.
    argv += ["--drafter", "lm", "--draft-bundle", str(tiny_bundle), "--chain", "3"]
    main(argv)
    plain = capsys.readouterr().out
    assert "\x1b" not in plain
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    main(argv)
    tinted = capsys.readouterr().out
    assert "\x1b[32m" in tinted
    assert tinted.replace("\x1b[32m", "").replace("\x1b[0m", "") == plain


# Ctrl-C and readers that go away

SLOW_GENERATE = """
import sys, time
from dovetail_ort.cli.main import main
from dovetail_ort_runtime.engine.target import Target

forward = Target.forward

def slow_forward(*arguments, **options):
    time.sleep(0.2)
    return forward(*arguments, **options)

Target.forward = slow_forward
sys.exit(main(["generate", sys.argv[1], "The tails hold the pins", "--raw", "--max-draft-tokens", "0"]))
"""


@pytest.fixture
def slow_generate(tiny_bundle: Path) -> Any:
    """A process that has printed the first character of a long answer."""
    argv = [sys.executable, "-c", SLOW_GENERATE, str(tiny_bundle)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        yield process
        process.kill()


def test_interrupt_ends_generate_with_one_line(slow_generate):
    slow_generate.send_signal(signal.SIGINT)
    _, err = slow_generate.communicate(timeout=10)
    assert (slow_generate.returncode, err) == (130, b"dovetail-ort: interrupted\n")


def test_reader_that_goes_away_ends_generate_silently(slow_generate):
    slow_generate.stdout.close()
    assert slow_generate.wait(timeout=10) == 141
    assert slow_generate.stderr.read() == b""


@pytest.mark.parametrize(("closed", "status"), [("<&-", 2), (">&-", 0), ("2>&-", 0)])
def test_closed_standard_streams_are_no_accident(closed, status, tiny_bundle):
    command = f'exec "$0" -m dovetail_ort generate "$1" --max-new-tokens 2 - {closed}'
    result = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, str(tiny_bundle)],
        input=PROMPT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status
    assert "Traceback" not in result.stderr


# Chat


def test_chat_answers_each_line_and_reuses_what_it_has_read(tiny_bundle, capsys, monkeypatch):
    lines = [PROMPT, "", "/nonsense", "And the nail?", "/reset", PROMPT]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
    assert main(["chat", str(tiny_bundle), "--max-new-tokens", "8", "--system", "Be brief."]) == 0
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if "tokens" in line]
    assert len(told) == 3
    assert "reused" not in told[0]
    assert "prompt tokens reused" in told[1]
    assert "[a command must be /reset, /quit or /help, got /nonsense]" in err
    assert len(out.splitlines()) >= 3
    assert not out.startswith("> ")  # a prompt is for terminals


def test_chat_reads_lines_that_any_system_wrote(tiny_bundle, capsys, monkeypatch):
    written = io.BytesIO(f"\ufeff/help\r\n{PROMPT}\r\n/quit\r\n".encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(written, encoding="utf-8", newline="\n"))
    asked = []
    monkeypatch.setattr(Conversation, "answer", lambda _, text: asked.append(text))
    assert main(["chat", str(tiny_bundle), "--quiet"]) == 0
    assert asked == [PROMPT]
    assert "/reset forgets" in capsys.readouterr().err


def test_chat_ends_at_quit(tiny_bundle, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/quit\n{PROMPT}\n"))
    assert main(["chat", str(tiny_bundle), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_chat_survives_a_message_that_is_too_long(tiny_bundle, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("word " * 600 + "\n" + PROMPT + "\n"))
    assert main(["chat", str(tiny_bundle), "--max-new-tokens", "4"]) == 0
    err = capsys.readouterr().err
    assert "start anew with /reset]" in err
    assert "[4 tokens" in err


class ScriptedPrinter:
    """Says `text`, then raises `error` if there is one; keeps the prompts."""

    def __init__(self) -> None:
        self.text = ""
        self.script: list[tuple[str, BaseException | None]] = []
        self.prompts: list[Any] = []

    def answer(self, prompt: Any) -> None:
        self.prompts.append(prompt)
        self.text, error = self.script.pop(0)
        if error is not None:
            raise error


def test_conversation_keeps_an_interrupted_answer_and_drops_a_message_without_one(capsys):
    printer = ScriptedPrinter()
    printer.script = [("Once upon", KeyboardInterrupt()), ("", KeyboardInterrupt()), ("a time.", None)]
    conversation = Conversation(printer, system="Tell stories.")  # type: ignore[arg-type]
    for text in ("Begin.", "Never mind.", "Go on."):
        conversation.answer(text)
    said = [(message["role"], message["content"]) for message in conversation.messages]
    assert said == [
        ("system", "Tell stories."),
        ("user", "Begin."),
        ("assistant", "Once upon"),
        ("user", "Go on."),
        ("assistant", "a time."),
    ]
    assert capsys.readouterr().err.count("interrupted") == 2
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Tell stories."}]


# Export


def test_export_sums_up_and_names_the_next_command(tiny_llama, tmp_path, capsys):
    out = tmp_path / "a bundle"
    assert main(["export", str(tiny_llama), str(out), "--max-context", "64", "--precision", "fp32"]) == 0
    summary, progress = capsys.readouterr()
    for line in ("row invariance  identical at S = 1, 2, 3, 5, 8, 16, 64", "exact           yes", "peak memory"):
        assert line in summary
    assert f"dovetail-ort generate '{out}'" in summary
    assert "loading" in progress
    assert "writing model.onnx" in progress
    assert main(["inspect", str(out), "--verify"]) == 0
    assert "all checksums match" in capsys.readouterr().out
    assert main(["export", str(tiny_llama), str(out)]) == 2
    assert "pass --force to replace that bundle" in capsys.readouterr().err
    assert main(["export", str(tiny_llama), str(out), "--force", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["target"]["precision"], record["target"]["max_context"]) == ("int8", 512)
    assert record["target"]["format"] == "native"


@pytest.mark.parametrize(
    ("chosen", "shown"), [("native", "native"), ("portable", "portable"), ("both", "native and portable")]
)
def test_export_and_inspect_show_the_format(tiny_llama, tmp_path, capsys, chosen, shown):
    out = tmp_path / "bundle"
    assert main(["export", str(tiny_llama), str(out), "--format", chosen]) == 0
    exported = capsys.readouterr().out
    assert main(["inspect", str(out)]) == 0
    for page in (exported, capsys.readouterr().out):
        assert re.search(rf"million(?: parameters)?, int8, {shown}$", page, re.M)


def test_export_says_loudly_that_a_bundle_is_not_exact(tiny_llama, tmp_path, capsys, monkeypatch):
    from dovetail_ort_export.checking import agreement

    measure = agreement.measure_row_invariance

    def differing(*arguments: Any) -> Any:

        return replace(measure(*arguments), identical=False, largest_difference=0.5)

    monkeypatch.setattr(agreement, "measure_row_invariance", differing)
    assert main(["export", str(tiny_llama), str(tmp_path / "bundle")]) == 0
    out, err = capsys.readouterr()
    assert "exact           NO" in out
    assert "WARNING" in err.splitlines()[-1]
    assert main(["generate", str(tmp_path / "bundle"), PROMPT, "--max-new-tokens", "2"]) == 0
    assert "not exact: this bundle failed its check" in capsys.readouterr().err


def test_unreadable_source_is_refused(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    assert main(["export", str(tmp_path / "source"), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("dovetail-ort: a source directory must hold a model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_export_without_its_packages_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dovetail_ort_export.exporter", None)
    assert main(["export", "source", str(tmp_path / "out")]) == 2
    assert "run: pip install 'dovetail-ort[export]'" in capsys.readouterr().err.splitlines()[-1]


# Inspect and doctor


# Training a drafter, attaching it, drafting with it


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
    # The planner would hardly let a head draft whose pass takes as long as the target's.
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


def test_a_copy_of_the_target_drafts_for_it(tiny_bundle, capsys):
    arguments = ["generate", str(tiny_bundle), PROMPT, "--json", "--max-new-tokens", "30", "--temperature", "0"]
    # A copy costs what it saves, so the planner would hardly let it draft.
    assert main([*arguments, "--drafter", "lm", "--draft-bundle", str(tiny_bundle), "--chain", "4"]) == 0
    drafted = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--max-draft-tokens", "0"]) == 0
    assert drafted["token_ids"] == json.loads(capsys.readouterr().out)["token_ids"]
    assert drafted["statistics"]["accepted_tokens"] > 10


def test_tuned_times_are_stored_and_drafted_with(tiny_bundle, capsys, monkeypatch, tmp_path):
    from dovetail_ort_runtime.loading import curves as loaded_curves

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["tune", str(tiny_bundle), "--draft-bundle", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"rows of a forward +after 128\n +1 +\d+\.\d\d ms\n", out)
    assert re.search(r"drafting +first token \d+\.\d\d ms after 1 unread", out)
    assert main(["tune", str(tiny_bundle), "--draft-bundle", str(tiny_bundle), "--json"]) == 0
    curves = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(loaded_curves, "measure_curves", None)  # nothing is measured any more
    loaded = dovetail_ort.load(tiny_bundle, draft_bundle=tiny_bundle)
    assert list(loaded.curves.verify_ms[0]) == curves["verify_ms"][0]
    with pytest.raises(TypeError):
        dovetail_ort.load(tiny_bundle, draft_bundle=tiny_bundle, threads=1)


def test_a_shape_is_that_of_a_model_that_drafts(tiny_bundle, refused):
    assert "a draft shape must be for a model that drafts, got the drafter auto without one" in refused(
        "generate", tiny_bundle, "hi", "--chain", "3"
    )


def test_training_on_prompts_in_a_wrong_format_is_refused(tiny_training, refused, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"question": "What holds the pins?"}\n')
    assert 'prompts.jsonl:1 must have "prompt", a string, or "messages", a list' in refused(
        *tiny_training("--prompts", str(prompts))
    )


def test_training_goes_on_from_a_head_only(tiny_training, refused, tmp_path):
    assert "a draft head must be a directory with a head.json" in refused(*tiny_training("--start", str(tmp_path)))


def test_training_for_a_bundle_that_does_not_name_its_weights_is_refused(damaged, tmp_path, capsys):
    change_manifest(damaged, lambda manifest: manifest["target"].update(weights_sha256=None))
    assert main(["train", str(damaged), str(tmp_path / "head")]) == 2
    assert "the bundle must name the weights it was made from, got an old one" in capsys.readouterr().err


def test_attaching_what_is_no_head_is_refused(tiny_bundle, tmp_path, capsys):
    assert main(["attach", str(tiny_bundle), str(tmp_path)]) == 2
    assert "a draft head must be a directory with a head.json" in capsys.readouterr().err


def test_drafting_without_a_drafter_names_the_commands_that_make_one(tiny_bundle, refused):
    assert "make one with dovetail-ort train" in refused("generate", tiny_bundle, "hi", "--drafter", "dgf")


def test_inspect_shows_what_is_in_the_bundle(tiny_bundle, capsys):
    assert main(["inspect", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    for text in ("llama", "2 blocks, 4 query and 2 KV heads of 16", "512 tokens of context", "tokenizer.json", "torch"):
        assert text in out
    assert "bind-weights, keep-blocks, score-rows, pack-qkv, pack-gate-up, fuse-skip-norm, lower-native" in out
    assert main(["inspect", str(tiny_bundle), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["target"]["num_layers"] == 2
    assert record["num_bytes"] == sum(entry["num_bytes"] for entry in record["files"])


def test_inspect_shows_a_bundle_that_was_compared_with_something_unheard_of(damaged, capsys):
    manifest = damaged / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"compared_with": "model"', '"compared_with": "a sieve"'))
    assert main(["inspect", str(damaged)]) == 0
    assert "same top token as what it came from" in capsys.readouterr().out


def test_doctor_checks_the_bundle_too(tiny_bundle, capsys):
    assert main(["doctor", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    assert "[ok] onnxruntime" in out
    assert "[ok] exactness" in out
    assert "[!!]" not in out


def test_doctor_knows_whether_the_bundle_drafts(tiny_bundle, tiny_drafting_bundle, capsys):
    assert main(["doctor", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\[--\] drafter +none, prompt lookup drafts alone", out)
    assert "optional: dovetail-ort train BUNDLE HEAD, then dovetail-ort attach" in out
    assert main(["doctor", str(tiny_drafting_bundle)]) == 0
    assert re.search(r"\[ok\] drafter +gating, 2 blocks, int4", capsys.readouterr().out)


def test_doctor_finds_two_onnxruntimes_and_names_the_remedy(capsys, monkeypatch):
    # numpy stands for the second distribution
    monkeypatch.setattr(onnx_runtime, "_DISTRIBUTIONS", ("onnxruntime", "numpy"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "[!!] onnxruntime" in out
    assert "to mend: pip uninstall -y onnxruntime onnxruntime-gpu" in out
    assert main(["doctor", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["healthy"]


def test_doctor_does_without_the_export_packages(capsys, monkeypatch):
    from importlib import metadata

    version = metadata.version

    def without_torch(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return "4.40.0" if name == "transformers" else version(name)

    monkeypatch.setattr(metadata, "version", without_torch)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("[--] [export] torch") and "not installed" in line for line in lines)
    assert any(line.startswith("[--] [export] transformers") and "4.40.0, must be" in line for line in lines)
    assert lines[-1] == "optional: pip install 'dovetail-ort[export]'"


@pytest.mark.parametrize("extra", ["export", "server", "hub"])
def test_doctor_names_the_extra_of_a_package_that_is_absent(extra, capsys, monkeypatch):
    requirements = ["numpy>=1.26", f"no-such-package>=1; extra == '{extra}'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: requirements)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"[--] [{extra}] no-such-package") and "not installed" in line for line in lines)
    assert lines[-1] == f"optional: pip install 'dovetail-ort[{extra}]'"
