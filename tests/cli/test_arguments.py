"""Arguments that cannot be are refused in one line that names them."""

from __future__ import annotations

import io

import pytest

from dovetail_ort.cli.main import main

PROMPT = "The tails hold the pins"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "dovetail-ort: a command is missing; see dovetail-ort --help"),
        (["paint"], "invalid choice: 'paint'"),
        (["graph"], "dovetail-ort graph: a command is missing; see dovetail-ort graph --help"),
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


def test_options_may_stand_between_bundle_and_prompt(tiny_bundle, capsys):
    assert main(["generate", str(tiny_bundle), "--raw", "--quiet", PROMPT, "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().err == ""
