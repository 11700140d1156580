"""The planner against fixed draft lengths, fixed trees and the rules of other engines.

    python -m benchmarks.planner BUNDLE

Every choice drafts over the target's recorded greedy answers to HumanEval and to 40 prompts of our own; nothing was
tuned on either. Drafting is timed as it runs. The target's forwards count with times that were measured once, so that
they are the same for all choices. Speedups are over decoding without speculation. Trees are verified with their side
branches.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

from benchmarks.machine import write_result
from benchmarks.prompt_sets import GENERAL
from benchmarks.recorded_answers import RecordedAnswer, record_answers, replay
from dovetail_ort.suites import HUMANEVAL, load_suite
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.drafting.drafter import Drafter
from dovetail_ort_runtime.drafting.drafting_ahead import DraftingAhead
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.drafting.proposal import Proposal
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.machine.processor import usable_cores
from dovetail_ort_runtime.planning.curve_measurement import THOROUGH, measure_curves
from dovetail_ort_runtime.planning.planner import Planner
from dovetail_ort_runtime.planning.time_curves import TimeCurves

MAX_CONTEXT: Final = 2048
TREES: Final = ((7, 4, 10), (16, 7, 10))
# llama.cpp drafts until the probability of a token falls below 0.75, 16 tokens at most; onnxruntime-genai drafts 4.
LLAMA_CPP_TOKENS: Final = 16
LLAMA_CPP_FLOOR: Final = 0.75
GENAI_TOKENS: Final = 4


class ProbabilityFloor(FeatureDrafter):
    """llama.cpp's rule: a chain ends before the first token whose probability is below a floor."""

    def draft(self, next_token_id: int, max_draft_tokens: int, shape: ChainShape | TreeShape) -> Proposal:
        """A chain of at most `LLAMA_CPP_TOKENS` tokens, whatever the shape says."""
        del shape
        tokens = self.likeliest_tokens(self.catch_up(next_token_id, num_candidates=1))
        stable = self.model.cache.length
        token_ids: list[int] = []
        for token_id, probability in islice(tokens, min(LLAMA_CPP_TOKENS, max_draft_tokens)):
            if probability < LLAMA_CPP_FLOOR:
                break
            token_ids.append(token_id)
        self.model.cache.rewind(stable)
        return Proposal.chain(token_ids)


class Unhurried(DraftingAhead):
    """Drafts ahead as beside a slow target: the work is always finished when the verdict comes."""

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        """Wait for the thread first."""
        self.wait()
        super().observe(token_ids, hidden_states)


def main(bundle_path: str) -> None:
    """Measure every choice on both suites, and write `planner.json`."""
    bundle = Bundle(bundle_path)
    suites = {"humaneval": load_suite(HUMANEVAL), "general": load_suite(GENERAL)}
    print("recording the target's answers", file=sys.stderr)
    answers = {name: record_answers(bundle_path, suite) for name, suite in suites.items()}
    entry = bundle.manifest.target
    head = bundle.manifest.drafter
    assert head is not None, "the bundle has no drafter"
    target = Target(bundle.path(entry.graph), entry, max_context=MAX_CONTEXT)
    model = DraftGraph(bundle.path(head.graph), head, capacity=MAX_CONTEXT, threads=usable_cores())
    drafter = FeatureDrafter(model)
    curves = measure_curves(target, drafter, THOROUGH)
    choices = drafter_choices(model, curves)
    result = {
        "curves": dataclasses.asdict(curves),
        "suites": {
            suite: {name: _measure(make(), recorded, curves) for name, make in choices.items()}
            for suite, recorded in answers.items()
        },
        "chains of 4, drafted ahead": {suite: _measure_ahead(model, recorded) for suite, recorded in answers.items()},
    }
    write_result("planner", result)


def drafter_choices(model: DraftGraph, curves: TimeCurves) -> dict[str, Callable[[], Drafter]]:
    """What makes each drafter that is compared, by its name in the result."""

    def fixed(length: int) -> Callable[[], Drafter]:
        return lambda: FeatureDrafter(model, ChainShape.fixed(length))

    def tree(num_rows: int, num_expansions: int, width: int) -> Callable[[], Drafter]:
        shape = TreeShape(num_rows=num_rows, num_expansions=num_expansions, width=width)
        return lambda: FeatureDrafter(model, shape)

    def in_trees(lookup: PromptLookup | None = None) -> Drafter:
        return Planner(curves, lookup=lookup, model=FeatureDrafter(model), keeps_branches=True)

    return {
        **{f"chain {length}": fixed(length) for length in range(1, 9)},
        **{f"tree {'/'.join(map(str, shape))}": tree(*shape) for shape in TREES},
        "llama.cpp's rule": lambda: ProbabilityFloor(model),
        "genai's rule": fixed(GENAI_TOKENS),
        "lookup, fixed table": PromptLookup,
        "planner, lookup": lambda: Planner(curves, lookup=PromptLookup()),
        "planner, head": lambda: Planner(curves, model=FeatureDrafter(model)),
        "planner, both": lambda: Planner(curves, lookup=PromptLookup(), model=FeatureDrafter(model)),
        "planner, head, trees": in_trees,
        "planner, both, trees": lambda: in_trees(PromptLookup()),
    }


def _measure(drafter: Drafter, answers: Sequence[RecordedAnswer], curves: TimeCurves) -> dict[str, Any]:
    verify_ms = 0.0
    context = round(sum(len(answer.token_ids) for answer in answers) / len(answers))

    def count(num_rows: int) -> None:
        nonlocal verify_ms
        verify_ms += curves.verify(num_rows, context)

    result = replay(drafter, answers, 16, count)
    draft_ms = 1e3 * result.draft_seconds
    return {
        "speedup": round(result.tokens * curves.verify(1, context) / (draft_ms + verify_ms), 3),
        "accepted_length": round(result.tokens / result.rounds, 3),
        "first_token_accepted": round(result.first_right / result.rounds, 4),
        "drafted_per_round": round(result.drafted / result.rounds, 2),
        "draft_ms": round(draft_ms / result.rounds, 3),
    }


def _measure_ahead(model: DraftGraph, answers: Sequence[RecordedAnswer]) -> dict[str, float]:
    """How often the next chain is ready when the verdict comes, and the accepted length of such chains."""
    ahead = Unhurried(FeatureDrafter(model))
    result = replay(ahead, answers, 4)
    return {
        "ready": round(ahead.num_ready / ahead.num_drafts, 4),
        "accepted_length": round(result.tokens / result.rounds, 3),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
