"""Tokens per second as the context grows, with speculation and without, beside the bytes that a token moves.

    python -m benchmarks.growth BUNDLE [CONTEXT ...]

The context is Python's language reference, which ships with Python, from several places on. The model continues it
greedily, and the two ways to decode take turns on each text. The bytes of a token are the weights and the cache that
the target's forwards read, divided by the tokens that they gave.
"""

from __future__ import annotations

import pydoc_data.topics
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import dovetail_ort
from benchmarks.machine import write_result
from benchmarks.timing import in_turn
from dovetail_ort import Generation, GenerationOptions, Model, SamplingOptions
from dovetail_ort_export.laboratory.graphs import loaded_graph
from dovetail_ort_export.laboratory.node_costs import NodeBytes
from dovetail_ort_export.laboratory.profile import measured_read_bandwidth
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_names import TARGET

CONTEXTS: Final = (128, 1024, 4096, 8000)
NUM_TEXTS: Final = 3
MAX_NEW_TOKENS: Final = 128
SPECULATIVE: Final = "speculative"
BASELINE: Final = "baseline"
OPTIONS: Final = GenerationOptions(max_new_tokens=MAX_NEW_TOKENS, sampling=SamplingOptions())
MODES: Final = {BASELINE: replace(OPTIONS, max_draft_tokens=0), SPECULATIVE: OPTIONS}


def main(bundle_path: str, *contexts: str) -> None:
    """Measure, and write `growth.json`."""
    bundle = Bundle(bundle_path)
    model = dovetail_ort.load(bundle_path, tune=True)
    nodes = NodeBytes(loaded_graph(bundle, TARGET))
    bandwidth = measured_read_bandwidth(model.threads)
    lengths = [int(context) for context in contexts] or CONTEXTS
    result = {
        "threads": model.threads,
        "num_texts": NUM_TEXTS,
        "max_new_tokens": MAX_NEW_TOKENS,
        "max_context": model.max_context,
        "read_gigabytes_per_second": round(bandwidth / 1e9, 2),
        "contexts": {str(length): _measure(model, nodes, bandwidth, length) for length in lengths},
    }
    write_result("growth", result)


def _measure(model: Model, nodes: NodeBytes, bandwidth: float, length: int) -> dict[str, Any]:
    answers: dict[str, list[Generation]] = {mode: [] for mode in MODES}
    for number, prompt in enumerate(_prompts(model, length)):
        for mode in in_turn([*MODES], number):
            model.reset()
            answers[mode].append(model.generate(prompt, MODES[mode]))
        print(f"\r{length} tokens: {number + 1}/{NUM_TEXTS}", end="", file=sys.stderr, flush=True)
    pairs = zip(answers[SPECULATIVE], answers[BASELINE], strict=True)
    return {
        "identical": sum(one.token_ids == other.token_ids for one, other in pairs),
        "modes": {mode: _summary(found, nodes, bandwidth, length) for mode, found in answers.items()},
    }


def _prompts(model: Model, length: int) -> list[list[int]]:
    """Texts of `length` tokens that begin at places spread evenly over the language reference."""
    text = "\n".join(pydoc_data.topics.topics.values())
    token_ids = model.tokenizer.encode(text, add_special_tokens=False)
    apart = (len(token_ids) - max(CONTEXTS)) // NUM_TEXTS
    return [token_ids[number * apart :][:length] for number in range(NUM_TEXTS)]


def _summary(answers: Sequence[Generation], nodes: NodeBytes, bandwidth: float, length: int) -> dict[str, float]:
    found = [answer.statistics for answer in answers]
    seconds = sum(one.decode_seconds for one in found)
    rounds = sum(one.rounds for one in found)
    tokens = sum(one.new_tokens - 1 for one in found)
    rows = 1 + sum(one.drafted_tokens for one in found) / rounds
    # On average half of the answer is in the cache.
    forward_bytes = nodes.read_in_forward(round(rows), length + MAX_NEW_TOKENS // 2)
    per_second = forward_bytes * rounds / seconds
    return {
        "tokens_per_second": round(tokens / seconds, 2),
        "tokens_a_round": round(tokens / rounds, 3),
        "prefill_seconds": round(statistics.median(one.prefill_seconds for one in found), 3),
        "prefill_tokens_per_second": round(statistics.median(one.prefill_tokens_per_second for one in found), 1),
        "megabytes_per_token": round(forward_bytes * rounds / tokens / 1e6, 1),
        "gigabytes_per_second": round(per_second / 1e9, 2),
        "of_read_bandwidth": round(per_second / bandwidth, 3),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
