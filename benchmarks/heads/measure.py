"""How long chains and trees of some draft heads are accepted, what drafting costs, and what that comes to.

    python -m benchmarks.heads.measure BUNDLE NUM_PROMPTS HEAD...

Every head drafts over the target's recorded greedy answers to NUM_PROMPTS prompts of HumanEval and as many of the
general prompts, which are our own; nothing was trained on either. Drafting is timed with an INT8 drafter in the
target's format. The speedup is computed from these times and from the measured time of the target's forwards.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from benchmarks.machine import write_result
from benchmarks.prompt_sets import GENERAL, spread
from benchmarks.recorded_answers import RecordedAnswer, record_answers, replay
from dovetail_ort.suites import HUMANEVAL
from dovetail_ort_export.recipe import Recipe
from dovetail_ort_export.training.head_files import load_head
from dovetail_ort_export.writing.drafter_parts import own_parts
from dovetail_ort_export.writing.drafter_writer import drafter_entry, drafter_graph, drafter_recipe
from dovetail_ort_export.writing.graph_file import save_graph
from dovetail_ort_export.writing.target_ends import TargetEnds, read_target_ends
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.forward_times import ROWS, time_forwards
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.machine.processor import usable_cores

CHAINS: Final = range(2, 8)
TREES: Final = (TreeShape(num_rows=7, num_expansions=4, width=10), TreeShape(num_rows=16, num_expansions=7, width=10))
MAX_CONTEXT: Final = 2048


def main(bundle_path: str, num_prompts: str, *head_paths: str) -> None:
    """Measure every head, and write `ablation.json`."""
    bundle = Bundle(bundle_path)
    count = int(num_prompts)
    suites = {"humaneval": spread(HUMANEVAL, count), "general": spread(GENERAL, count)}
    print("recording the target's answers", file=sys.stderr)
    answers = {name: record_answers(bundle_path, suite) for name, suite in suites.items()}
    entry = bundle.manifest.target
    target = Target(bundle.path(entry.graph), entry, max_context=MAX_CONTEXT)
    times = time_forwards({"target": target}, rounds=30)["target"]
    forward_ms = {rows: statistics.median(ms) for rows, ms in times.items()}
    del target
    ends = read_target_ends(bundle)
    recipe = drafter_recipe("int8", entry.format)
    result = {
        "num_prompts": count,
        "forward_ms": {str(rows): round(ms, 3) for rows, ms in forward_ms.items()},
        "heads": {Path(path).name: measure_head(Path(path), ends, recipe, answers, forward_ms) for path in head_paths},
    }
    write_result("ablation", result)


def measure_head(
    path: Path,
    ends: TargetEnds,
    recipe: Recipe,
    answers: Mapping[str, Sequence[RecordedAnswer]],
    forward_ms: dict[int, float],
) -> dict[str, Any]:
    """All shapes of one head on all suites."""
    print(f"measuring {path}", file=sys.stderr)
    head, draft_token_ids, record = load_head(path)
    with TemporaryDirectory() as folder:
        graph = Path(folder) / "drafter.onnx"
        parts = own_parts(head, ends, draft_token_ids)
        save_graph(drafter_graph(parts, recipe), graph)
        entry = drafter_entry(parts, record.target_sha256, graph.name, recipe)
        model = DraftGraph(graph, entry, capacity=MAX_CONTEXT, threads=usable_cores())
        return {
            "num_parameters": entry.num_parameters,
            "draft_vocabulary_size": len(draft_token_ids),
            "num_answer_tokens": record.num_answer_tokens,
            "training_minutes": round(record.training_seconds / 60, 1),
            "suites": {name: _measure_suite(model, recorded, forward_ms) for name, recorded in answers.items()},
        }


def _measure_suite(
    model: DraftGraph, answers: Sequence[RecordedAnswer], forward_ms: dict[int, float]
) -> dict[str, dict[str, float]]:
    shapes: dict[str, ChainShape | TreeShape] = {f"chain {length}": ChainShape.fixed(length) for length in CHAINS}
    shapes |= {f"tree {shape.num_rows}/{shape.num_expansions}/{shape.width}": shape for shape in TREES}
    return {name: _measure(FeatureDrafter(model, shape), answers, forward_ms) for name, shape in shapes.items()}


def _measure(
    drafter: FeatureDrafter, answers: Sequence[RecordedAnswer], forward_ms: dict[int, float]
) -> dict[str, float]:
    result = replay(drafter, answers, 15)
    accepted_length = result.tokens / result.rounds
    drafted = result.drafted / result.rounds
    draft_ms = 1e3 * result.draft_seconds / result.rounds
    verify_ms = float(np.interp(1 + drafted, ROWS, [forward_ms[rows] for rows in ROWS]))
    return {
        "accepted_length": round(accepted_length, 3),
        "first_token_accepted": round(result.first_right / result.rounds, 4),
        "drafted_per_round": round(drafted, 2),
        "draft_ms": round(draft_ms, 3),
        "computed_speedup": round(accepted_length * forward_ms[1] / (draft_ms + verify_ms), 3),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
