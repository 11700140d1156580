"""Drafting ahead while the target verifies, compared with the same drafter without it, prompt by prompt in turns.

    python -m benchmarks.gpu.ahead BUNDLE --limit 10 --max-new-tokens 128 --threads 2

JSON on standard output. `draft_share` is the share of the decoding time that still waits for drafting.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from typing import Any, Final
from unittest.mock import patch

import dovetail_ort
from benchmarks.timing import in_turn
from dovetail_ort import GenerationOptions, Model, SamplingOptions, Statistics
from dovetail_ort.suites import HUMANEVAL, load_suite
from dovetail_ort_runtime.loading import drafters

AHEAD: Final = "ahead"
IN_TURN: Final = "in turn"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--limit", type=int, required=True, help="number of prompts of HumanEval")
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, help="threads of the target; all cores by default")
    given = parser.parse_args()
    options = GenerationOptions(max_new_tokens=given.max_new_tokens, sampling=SamplingOptions())
    models = {mode: _load(given.bundle, given.threads, mode) for mode in (AHEAD, IN_TURN)}
    statistics: dict[str, list[Statistics]] = {mode: [] for mode in models}
    num_identical = 0
    for number, prompt in enumerate(load_suite(HUMANEVAL)[: given.limit]):
        answers = {}
        for mode in in_turn((IN_TURN, AHEAD), number):
            models[mode].reset()
            answers[mode] = models[mode].generate(prompt.messages, options)
            statistics[mode].append(answers[mode].statistics)
        num_identical += answers[AHEAD].token_ids == answers[IN_TURN].token_ids
    found = {
        "threads": models[AHEAD].threads,
        "num_prompts": given.limit,
        "num_identical": num_identical,
        **{mode: _summary(items) for mode, items in statistics.items()},
    }
    print(json.dumps(found, indent=1))


def _load(bundle: str, threads: int | None, mode: str) -> Model:
    """A model whose drafter drafts ahead, or one whose drafter does not, which no setting of the library asks for."""
    in_turn = patch.object(drafters, "DraftingAhead", lambda drafter: drafter)
    with in_turn if mode == IN_TURN else nullcontext():
        return dovetail_ort.load(bundle, threads=threads, drafter="dgf", drafter_device="cuda")


def _summary(items: list[Statistics]) -> dict[str, Any]:
    seconds = sum(item.decode_seconds for item in items)
    rounds = sum(item.rounds for item in items)
    return {
        "tokens_per_second": round(sum(item.new_tokens - 1 for item in items) / seconds, 1),
        "draft_share": round(sum(item.draft_seconds for item in items) / seconds, 4),
        "accepted_length": round(1 + sum(item.accepted_tokens for item in items) / max(rounds, 1), 3),
    }


if __name__ == "__main__":
    main()
