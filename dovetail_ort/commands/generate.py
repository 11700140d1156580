"""`dovetail-ort generate`: one prompt in, one answer out."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from typing import Any

from dovetail_ort.cli.answer_printer import AnswerPrinter
from dovetail_ort.cli.arguments import add_generation_arguments, add_json, open_model, template_arguments
from dovetail_ort.cli.terminal import END_OF_INPUT
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.model import Model
from dovetail_ort_runtime.results import Generation
from dovetail_ort_runtime.text.messages import Message, Prompt
from dovetail_ort_runtime.text.user_text import standard_input


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        '  dovetail-ort generate smollm2 "Why is the sky blue?" --max-new-tokens 200\n'
        '  dovetail-ort generate qwen3 "Name a prime." --template-argument enable_thinking=false\n'
        "  git diff | dovetail-ort generate smollm2 --system 'Write a commit message.' --quiet\n"
        '  dovetail-ort generate smollm2 --raw "def fibonacci(n):" --stop "$(printf \'\\n\\n\')" --json'
    )
    add_generation_arguments(parser)
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="?",
        default="-",
        help="the text to answer; standard input if it is missing or -",
    )
    parser.add_argument("--raw", action="store_true", help="continue the text instead of answering it")
    parser.add_argument(
        "--show-special-tokens",
        action="store_true",
        help="print special tokens by their spelling, the last one of the answer too",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    given = template_arguments(arguments)
    model, options = open_model(arguments)
    options = replace(options, skip_special_tokens=not arguments.show_special_tokens)
    prompt = _prompt(model, arguments)
    if arguments.json:
        generation = model.generate(prompt, options, template_arguments=given)
        print(json.dumps(_as_json(generation, exact=model.exact)))
        return 0
    printer = AnswerPrinter(
        model, options, template_arguments=given, show_drafted=arguments.show_drafted, quiet=arguments.quiet
    )
    printer.answer(prompt)
    return 0


def _prompt(model: Model, arguments: argparse.Namespace) -> Prompt:
    raw = arguments.raw or not model.has_chat_template
    if raw and arguments.system is not None:
        raise InputError(
            "--system needs a chat template, which --raw and a bundle without one do not use; leave out --system"
        )
    text = _read_input(drop_newline=not raw) if arguments.prompt == "-" else arguments.prompt
    if not text:
        raise InputError("the prompt is empty; give PROMPT, or send a text to standard input")
    if raw:
        return str(text)
    messages: list[Message] = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
    messages.append({"role": "user", "content": text})
    return messages


def _read_input(*, drop_newline: bool) -> str:
    stream = standard_input()
    if stream.isatty():
        print(f"type the prompt and end it with {END_OF_INPUT}:", file=sys.stderr)
    try:
        text = stream.read()
    except UnicodeError as error:
        raise InputError(
            "the prompt on standard input must be UTF-8 text, got other bytes; convert it first"
        ) from error
    return text.removesuffix("\n") if drop_newline else text


def _as_json(generation: Generation, *, exact: bool) -> dict[str, Any]:
    statistics = generation.statistics
    return {
        **asdict(generation),
        "exact": exact,
        "statistics": {
            **asdict(statistics),
            "decode_seconds": statistics.decode_seconds,
            "decode_tokens_per_second": statistics.decode_tokens_per_second,
            "prefill_tokens_per_second": statistics.prefill_tokens_per_second,
            "accepted_length": statistics.accepted_length,
        },
    }
