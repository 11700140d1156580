"""`dovetail-ort bench`: how much faster speculation is, and whether it is exact."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
from typing import Any

import dovetail_ort
from dovetail_ort.benchmark import Benchmark, BenchmarkResult, PromptRecord, as_json, summarise
from dovetail_ort.cli.arguments import (
    add_bundle,
    add_json,
    add_speculation,
    add_template_arguments,
    add_threads,
    add_verification,
    load_options,
    template_arguments,
)
from dovetail_ort.suites import load_suite
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.machine.onnx_runtime import onnxruntime_distributions
from dovetail_ort_runtime.machine.processor import processor_name
from dovetail_ort_runtime.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Each prompt is decoded greedily twice, with speculation and without it. Decoding without speculation is the\n"
        "baseline. The exit status is 1 if an exact bundle gives an answer that differs from the baseline's.\n\n"
        "examples:\n"
        "  dovetail-ort bench smollm2 --suite humaneval\n"
        "  dovetail-ort bench smollm2 --suite prompts.jsonl --limit 20 --json > result.json"
    )
    add_bundle(parser)
    parser.add_argument(
        "--suite", default="humaneval", help="humaneval, or a JSONL file whose lines have a prompt or messages"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="decode only the first N prompts")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=128,
        metavar="N",
        help="largest number of tokens of an answer (default: %(default)s)",
    )
    add_template_arguments(parser)
    add_speculation(parser)
    add_verification(parser)
    add_threads(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if an exact bundle gave another answer than the baseline."""
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit must be 1 or more, got {arguments.limit}")
    given = template_arguments(arguments)
    prompts = load_suite(arguments.suite)[: arguments.limit]
    model = Model(Bundle(arguments.bundle, arguments.verify), load_options(arguments))
    benchmark = Benchmark(
        model,
        max_new_tokens=arguments.max_new_tokens,
        max_draft_tokens=arguments.max_draft_tokens,
        template_arguments=given,
    )
    records: list[PromptRecord] = []
    for record in benchmark.run(prompts):
        records.append(record)
        result = summarise(records)
        print(
            f"\r{len(records)}/{len(prompts)} prompts, {result.num_identical} identical, {result.speedup:.2f}x",
            end="" if len(records) < len(prompts) else "\n",
            file=sys.stderr,
            flush=True,
        )
    if arguments.json:
        print(json.dumps({**_context(arguments, model), **as_json(result, records)}, indent=2))
    else:
        print(_table(result))
    return 1 if model.exact and result.num_identical < result.num_prompts else 0


def _context(arguments: argparse.Namespace, model: Model) -> dict[str, Any]:
    return {
        "suite": arguments.suite,
        "max_new_tokens": arguments.max_new_tokens,
        "template_arguments": dict(arguments.template_arguments),
        "drafter": arguments.drafter,
        "draft_shape": None if arguments.draft_shape is None else dataclasses.asdict(arguments.draft_shape),
        "exact": model.exact,
        "max_draft_tokens": arguments.max_draft_tokens,
        "machine": processor_name(),
        "sessions": [dataclasses.asdict(session) for session in model.sessions()],
        "date": datetime.date.today().isoformat(),
        "dovetail_ort": dovetail_ort.__version__,
        **onnxruntime_distributions(),
    }


def _table(result: BenchmarkResult) -> str:
    rows = [f"{'':24}{'tokens/s':>10}{'median':>10}{'prefill/s':>11}{'first token':>13}"]
    for name, mode in result.modes.items():
        rows.append(
            f"{name:<24}{mode.decode_tokens_per_second:>10.1f}{mode.median_tokens_per_second:>10.1f}"
            f"{mode.prefill_tokens_per_second:>11.0f}{mode.median_time_to_first_token_ms:>10.0f} ms"
        )
    low, high = result.speedup_quartiles
    rows += [
        "",
        f"identical to baseline   {result.num_identical}/{result.num_prompts}",
        f"speedup                 {result.speedup:.2f}x (by prompt: median {result.median_speedup:.2f}x, "
        f"quartiles {low:.2f}x to {high:.2f}x)",
        f"tokens a round          {result.accepted_length:.2f} with {result.drafted_per_round:.2f} drafted; "
        f"rounds by accepted drafts {list(result.accepted_histogram)}",
        "time of a round         " + ", ".join(f"{part} {share:.1%}" for part, share in result.shares.items()),
    ]
    return "\n".join(rows)
