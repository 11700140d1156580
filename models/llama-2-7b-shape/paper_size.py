"""What a round costs at the size of the paper, LLaMA-2-7B, and what the paper's tokens a round would make of it.

    python paper_size.py BUNDLE EXPORT_JSON > result.json

BUNDLE is the export of `random_source.py`, EXPORT_JSON what `dovetail-ort export --json` printed of it. Verification,
drafting and memory bandwidth are measured; random weights accept nothing, so the speedup is a projection with the
tokens a round of arXiv 2412.18934. There is no GPU in it: the drafter shares the CPU with the target.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from random_drafters import random_drafters
from scaled_lengths import ScaledLength, scale_lengths

from dovetail_ort_export.laboratory.node_costs import NodeBytes
from dovetail_ort_export.laboratory.profile import measured_read_bandwidth
from dovetail_ort_runtime import SamplingOptions
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.draft_model import DraftModel
from dovetail_ort_runtime.draft_shape import ChainShape, TreeShape
from dovetail_ort_runtime.environment import processor_name, usable_cores
from dovetail_ort_runtime.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.manifest import TargetEntry
from dovetail_ort_runtime.pass_times import time_passes
from dovetail_ort_runtime.target import EXACT_ROWS, Target

# HumanEval, LLaMA2-Chat-7B in fp32 on the CPU, a drafter of five blocks in 3 GB of a GPU, trees 16/7/10.
PAPER_ROWS: Final = 16
PAPER_TOKENS: Final = 5.90
PAPER_SPEEDUP: Final = 2.77
PAPER_BLOCKS: Final = 5
PAPER_EXPANSIONS: Final = 7
WIDTH: Final = 10

MEASURED_LENGTHS: Final = Path(__file__).parents[1] / "smollm2-135m-instruct" / "results" / "tree-lengths.json"
BLOCKS: Final = {1: "one block", PAPER_BLOCKS: "five blocks"}
VERIFY_ROWS: Final = (1, 2, 4, 6, 8, 16)
TREE_ROWS: Final = (4, 6, 8, PAPER_ROWS)
NUM_PAST: Final = 256
CAPACITY: Final = 512
ROUNDS: Final = 20

Shape = ChainShape | TreeShape


def main(bundle_path: str, export_json: str) -> None:
    """Measure, project and print JSON."""
    bundle = Bundle(bundle_path)
    entry = bundle.manifest.target
    exported = json.loads(Path(export_json).read_text(encoding="utf-8"))
    if exported["target"] != dataclasses.asdict(entry) | {"passes": list(entry.passes)}:
        sys.exit(f"{export_json} must be of the bundle {bundle_path}, got another target; export it again")
    lengths = _paper_lengths()
    bandwidth = measured_read_bandwidth(usable_cores())
    with tempfile.TemporaryDirectory(dir=bundle.directory.parent) as folder:
        models = random_drafters(bundle, Path(folder), list(BLOCKS), CAPACITY)
        draft_ms = {number: _draft_times(model, lengths) for number, model in models.items()}
        drafters = {str(number): _drafter_record(model, draft_ms[number]) for number, model in models.items()}
        del models
    verify = _verify(bundle, entry)
    verify_ms = {rows: statistics.median(found) for rows, found in verify.items()}
    nodes = NodeBytes(bundle.path(entry.graph), 2 * entry.num_kv_heads * entry.head_size * np.float32().nbytes)
    result = {
        "machine": processor_name(),
        "threads": usable_cores(),
        "date": datetime.date.today().isoformat(),
        "onnxruntime": onnxruntime.__version__,
        "weights": "random",
        "target": {
            name: exported["target"][name]
            for name in ("family", "num_layers", "hidden_size", "num_parameters", "precision", "int8_format", "exact")
        },
        "export": {name: exported[name] for name in ("num_bytes", "peak_memory_bytes", "measurements")},
        "read_gigabytes_per_second": round(bandwidth / 1e9, 2),
        "num_past": NUM_PAST,
        "rounds": len(verify[1]),
        "verify": {
            str(rows): _verify_record(found, verify[1], nodes.read_in_pass(rows, NUM_PAST), bandwidth)
            for rows, found in verify.items()
        },
        "drafters": drafters,
        "projection": _projection(verify_ms, draft_ms, lengths),
    }
    print(json.dumps(result, indent=2))


def _paper_lengths() -> dict[int, ScaledLength]:
    measured = json.loads(MEASURED_LENGTHS.read_text(encoding="utf-8"))["tokens_a_round"]
    return scale_lengths({int(rows): tokens for rows, tokens in measured.items()}, PAPER_ROWS, PAPER_TOKENS)


def _verify(bundle: Bundle, entry: TargetEntry) -> dict[int, list[float]]:
    """Milliseconds of passes by rows, in turns."""
    target = Target(bundle.path(entry.graph), entry, max_context=CAPACITY)
    return time_passes({"": target}, ROUNDS, rows=VERIFY_ROWS, num_past=NUM_PAST)[""]


def _verify_record(found: list[float], one_row: list[float], pass_bytes: int, bandwidth: float) -> dict[str, Any]:
    ms = statistics.median(found)
    ratios = [ms / one for ms, one in zip(found, one_row, strict=True)]
    return {
        "median_ms": round(ms, 2),
        "over_one_row": [round(ratio, 3) for ratio in statistics.quantiles(ratios, n=4)],
        "gigabytes": round(pass_bytes / 1e9, 3),
        "of_read_bandwidth": round(pass_bytes / ms * 1e3 / bandwidth, 3),
    }


def _shapes(rows: int) -> dict[str, Shape]:
    """What can be drafted for a pass of so many rows; a tree is never deeper than it has nodes."""
    expansions = min(PAPER_EXPANSIONS, rows - 2)
    return {
        f"tree {rows}/{expansions}/{WIDTH}": TreeShape(num_rows=rows, num_expansions=expansions, width=WIDTH),
        f"chain {rows - 1}": ChainShape.fixed(rows - 1),
    }


def _draft_times(model: DraftModel, lengths: Mapping[int, ScaledLength]) -> dict[str, float]:
    """Median milliseconds of a round's drafting by shape, in turns, with the tokens of the round before to read."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, 1000, size=NUM_PAST + PAPER_ROWS)
    states = random.normal(size=(len(tokens), model.hidden_size)).astype(np.float32)
    drafter = FeatureDrafter(model)
    drafter.begin(SamplingOptions(), exact=False)
    drafter.observe(tokens[:NUM_PAST], states[:NUM_PAST])
    drafter.draft(0, 1, ChainShape.fixed(1))
    cases = [(name, shape, rows) for rows in TREE_ROWS for name, shape in _shapes(rows).items()]
    times: dict[str, list[float]] = {name: [] for name, _, _ in cases}
    for number in range(ROUNDS):
        for name, shape, rows in cases[:: 1 if number % 2 else -1]:
            end = NUM_PAST + round(lengths[rows].tokens)
            drafter.rewind(NUM_PAST)
            drafter.observe(tokens[NUM_PAST:end], states[NUM_PAST:end])
            started = time.perf_counter()
            drafter.draft(0, rows - 1, shape)
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(found) for name, found in times.items()}


def _drafter_record(model: DraftModel, draft_ms: Mapping[str, float]) -> dict[str, Any]:
    return {
        "weight_bytes": model.weight_bytes,
        "draft_ms": {name: round(ms, 2) for name, ms in draft_ms.items()},
    }


def _projection(
    verify_ms: Mapping[int, float], draft_ms: Mapping[int, Mapping[str, float]], lengths: Mapping[int, ScaledLength]
) -> dict[str, Any]:
    """Speedups over plain decoding, tokens * plain_ms / (draft_ms + verify_ms), for each tree size."""
    return {
        "what": "a projection, not a measurement: times measured here, tokens a round of the paper's trained drafter "
        f"of {PAPER_BLOCKS} blocks, whose trees are verified with their side branches",
        "paper": {"speedup": PAPER_SPEEDUP, "tokens_a_round": PAPER_TOKENS, "rows": PAPER_ROWS, "blocks": PAPER_BLOCKS},
        "plain_ms": {"one-row kernel": round(verify_ms[1], 2), "exact": round(verify_ms[EXACT_ROWS], 2)},
        "by_rows": {str(rows): _projected(rows, lengths[rows], verify_ms, draft_ms) for rows in TREE_ROWS},
    }


def _projected(
    rows: int, length: ScaledLength, verify_ms: Mapping[int, float], draft_ms: Mapping[int, Mapping[str, float]]
) -> dict[str, Any]:
    tree = next(name for name, shape in _shapes(rows).items() if isinstance(shape, TreeShape))

    def speedups(tokens: float) -> dict[str, float]:
        spent = {f"{name} on this CPU": draft_ms[number][tree] for number, name in BLOCKS.items()}
        # The limit of a device of its own that drafts in no time.
        spent["no time for drafting"] = 0.0
        return {name: round(tokens * verify_ms[1] / (ms + verify_ms[rows]), 3) for name, ms in spent.items()}

    published = rows == PAPER_ROWS
    return {
        "tokens_a_round": round(length.tokens, 2),
        "tokens_a_round_from": "the paper" if published else "the paper's at 16 rows, scaled by our measured curve",
        "speedup": speedups(length.tokens),
    } | ({} if published else {"least": speedups(length.least), "most": speedups(length.most)})


if __name__ == "__main__":
    main(*sys.argv[1:])
