"""dovetail-ort and onnxruntime-genai on the same prompts, prompt by prompt in turns.

    python compare_genai.py BUNDLE GENAI_MODEL [NUM_PROMPTS] > result.json

Both run INT8 weights in blocks of 32 with accuracy level 4. genai runs as its builder configures it and with as many
threads as dovetail-ort; its speculation runs in three settings on those threads. The order changes from prompt to
prompt.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from genai_peer import GenaiPeer, PeerAnswer

import dovetail_ort
from dovetail_ort import GenerationOptions, Model, SamplingOptions
from dovetail_ort.suites import HUMANEVAL, load_suite
from dovetail_ort_runtime.environment import processor_name

MAX_NEW_TOKENS: Final = 128
SPECULATION: Final = {
    "ngram 3, 8 drafts": {"ngram_size": 3, "max_draft_tokens": 8},
    "ngram 4, 8 drafts": {"ngram_size": 4, "max_draft_tokens": 8},
    "ngram 3, adaptive": {"ngram_size": 3, "min_adaptive_k": 2, "ngram_chained_lookup": True},
}
OURS: Final = {
    "dovetail plain, one-row kernel": {"max_draft_tokens": 0, "exact": False},
    "dovetail plain, exact": {"max_draft_tokens": 0},
    "dovetail speculative": {},
}
GENAI_DEFAULT: Final = "genai plain, as built"
GENAI_PLAIN: Final = "genai plain"

Run = Callable[[Sequence[int]], PeerAnswer]


def main(bundle: str, genai: str, num_prompts: int) -> None:
    """Run everything and print JSON."""
    model = dovetail_ort.load(bundle)
    systems = {**_ours(model), **_genai(model, Path(genai))}
    prompts = [model.token_ids(prompt.messages) for prompt in load_suite(HUMANEVAL)[:num_prompts]]
    for run in systems.values():
        run(prompts[0])  # not counted
    answers: dict[str, list[PeerAnswer]] = {name: [] for name in systems}
    names = list(systems)
    for number, prompt in enumerate(prompts):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            answers[name].append(systems[name](prompt))
        print(f"\r{number + 1}/{len(prompts)}", end="", file=sys.stderr, flush=True)
    print(json.dumps({**_context(model, len(prompts)), **_summary(answers)}, indent=2))


def _ours(model: Model) -> dict[str, Run]:
    def runner(changes: dict[str, Any]) -> Run:
        options = GenerationOptions(max_new_tokens=MAX_NEW_TOKENS, sampling=SamplingOptions(), **changes)

        def run(prompt: Sequence[int]) -> PeerAnswer:
            model.reset()
            answer = model.generate(prompt, options)
            return PeerAnswer(
                token_ids=answer.token_ids,
                prefill_seconds=answer.statistics.prefill_seconds,
                decode_seconds=answer.statistics.decode_seconds,
            )

        return run

    return {name: runner(changes) for name, changes in OURS.items()}


def _genai(model: Model, directory: Path) -> dict[str, Run]:
    ends = model.manifest.generation.eos_token_ids
    as_built = GenaiPeer(directory, threads=None, eos_token_ids=ends)
    peer = GenaiPeer(directory, threads=model.threads, eos_token_ids=ends)

    def runner(system: GenaiPeer, speculation: dict[str, Any] | None) -> Run:
        return lambda prompt: system.generate(prompt, MAX_NEW_TOKENS, speculation)

    return {
        GENAI_DEFAULT: runner(as_built, None),
        GENAI_PLAIN: runner(peer, None),
        **{f"genai {name}": runner(peer, settings) for name, settings in SPECULATION.items()},
    }


def _summary(answers: dict[str, list[PeerAnswer]]) -> dict[str, Any]:
    rates = {name: [_rate(answer) for answer in items] for name, items in answers.items()}
    plain = {name: GENAI_PLAIN if name.startswith("genai") else "dovetail plain, exact" for name in answers}
    return {
        "systems": {
            name: {
                "median_decode_tokens_per_second": round(statistics.median(rates[name]), 1),
                "over_genai_plain": _ratio(rates, name, GENAI_PLAIN),
                "over_genai_as_built": _ratio(rates, name, GENAI_DEFAULT),
                "median_prefill_ms": round(1e3 * statistics.median(item.prefill_seconds for item in items), 1),
                "prompts_that_differ_from_own_plain": sum(
                    one.token_ids != other.token_ids for one, other in zip(items, answers[plain[name]], strict=True)
                ),
            }
            for name, items in answers.items()
        }
    }


def _rate(answer: PeerAnswer) -> float:
    return (len(answer.token_ids) - 1) / answer.decode_seconds if answer.decode_seconds else 0.0


def _ratio(rates: dict[str, list[float]], name: str, base: str) -> float:
    """Ratio of medians over the prompts."""
    return round(statistics.median(rates[name]) / statistics.median(rates[base]), 3)


def _context(model: Model, num_prompts: int) -> dict[str, Any]:
    return {
        "suite": HUMANEVAL,
        "num_prompts": num_prompts,
        "max_new_tokens": MAX_NEW_TOKENS,
        "machine": processor_name(),
        "threads": model.threads,
        "date": datetime.date.today().isoformat(),
        **{name: importlib.metadata.version(name) for name in ("dovetail-ort", "onnxruntime", "onnxruntime-genai")},
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 164)
