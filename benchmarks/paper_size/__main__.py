"""What a round costs at the size of the paper, LLaMA-2-7B, and what published tokens a round would make of it.

    python -m benchmarks.paper_size BUNDLE EXPORT_JSON

BUNDLE is the export of `random_source`, EXPORT_JSON is what `dovetail-ort export --json` printed about it. Forwards,
drafting and the pace of memory are measured. Random weights accept nothing, so the speedup is a projection: it takes
tokens a round that were published for trained heads. No GPU is used; the drafter shares the CPU with the target.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.machine import write_result
from benchmarks.paper_size.projection import BLOCKS, PAPER_SPEEDUP, PUBLISHED, projections
from benchmarks.paper_size.random_drafters import random_drafters
from benchmarks.timing import in_turn, median_ratio
from dovetail_ort_export.laboratory.node_costs import NodeBytes
from dovetail_ort_runtime import SamplingOptions
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.shapes import ChainShape
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.forward_times import ForwardTimes, milliseconds, target_forwards, time_in_turns
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.machine.processor import usable_cores

ROWS: Final = (1, 2, 4, 6, 8, 12, 16)
NUM_PAST: Final = 256
CAPACITY: Final = 512
ROUNDS: Final = 10
PROCESSES: Final = 3
# Bytes of weights that a plain sum reads: several times what any processor's cache holds.
SUMMED_BYTES: Final = 4 << 30
_TOKEN_IDS: Final = 256
_TARGET: Final = ("family", "num_layers", "hidden_size", "num_parameters", "precision", "format", "exact")
_EXPORT: Final = ("num_bytes", "peak_memory_bytes", "measurements")
_PROJECTION: Final = (
    "a projection, not a measurement: times measured here, tokens a round that were published for trained heads on "
    "HumanEval"
)


def main(bundle_path: str, export_json: str) -> None:
    """Measure, project, and write `paper-size.json`."""
    bundle = Bundle(bundle_path)
    entry = bundle.manifest.target
    exported = json.loads(Path(export_json).read_text(encoding="utf-8"))
    if exported["target"] != dataclasses.asdict(entry) | {"passes": list(entry.passes)}:
        sys.exit(f"{export_json} must be of the bundle {bundle_path}, got another target; export it again")
    drafters = _drafters(bundle)
    verify = _verify(bundle)
    result = {
        "threads": usable_cores(),
        "weights": "random",
        "target": {name: exported["target"][name] for name in _TARGET},
        "export": {name: exported[name] for name in _EXPORT},
        "num_past": NUM_PAST,
        "rounds": ROUNDS,
        "processes": PROCESSES,
        "verify": {str(rows): found for rows, found in verify.items()},
        "drafters": {str(number): found for number, found in drafters.items()},
        "projection": {
            "what": _PROJECTION,
            "paper_speedup": PAPER_SPEEDUP,
            "by_shape": projections(
                {rows: found["median_ms"] for rows, found in verify.items()},
                {number: found["draft_ms"] for number, found in drafters.items()},
            ),
        },
    }
    write_result("paper-size", result)


def _drafters(bundle: Bundle) -> dict[int, dict[str, Any]]:
    """By number of blocks: bytes of the weights, and milliseconds of drafting by shape."""
    with tempfile.TemporaryDirectory(dir=bundle.directory.parent) as folder:
        models = random_drafters(bundle, Path(folder), list(BLOCKS), CAPACITY)
        return {
            number: {
                "weight_bytes": model.weight_bytes,
                "draft_ms": {name: round(ms, 2) for name, ms in _draft_times(model).items()},
            }
            for number, model in models.items()
        }


def _verify(bundle: Bundle) -> dict[int, dict[str, Any]]:
    """By rows: the time of a forward, over all processes."""
    measured = [_in_a_process(str(bundle.directory)) for _ in range(PROCESSES)]
    nodes = NodeBytes(bundle.path(bundle.manifest.target.graph))
    return {rows: _verify_record(measured, rows, nodes.read_in_forward(rows, NUM_PAST)) for rows in ROWS}


@dataclass(frozen=True, slots=True)
class _Measured:
    """What one process measured.

    Attributes:
        forwards: milliseconds of forwards by rows, one for each round.
        sums: milliseconds of a plain sum in the same rounds.
        summed_bytes: number of bytes that the sum reads.
    """

    forwards: ForwardTimes
    sums: ForwardTimes
    summed_bytes: int


def _in_a_process(bundle_path: str) -> _Measured:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(_forwards, bundle_path).result()


def _forwards(bundle_path: str) -> _Measured:
    """Forwards in turns with a plain sum over the weights by as many threads."""
    bundle = Bundle(bundle_path)
    entry = bundle.manifest.target
    target = Target(bundle.path(entry.graph), entry, max_context=CAPACITY)
    graph = bundle.path(entry.graph)
    (weights,) = (path for path in graph.parent.glob(f"{graph.name}*") if path != graph)
    content = np.fromfile(weights, dtype=np.uint64, count=min(weights.stat().st_size, SUMMED_BYTES) // 8)
    parts = np.array_split(content, target.threads)
    with ThreadPoolExecutor(target.threads) as executor:
        runs = {
            "forward": target_forwards(target, NUM_PAST),
            "sum": lambda _: list(executor.map(np.bitwise_or.reduce, parts)),
        }
        times = time_in_turns(runs, ROUNDS, rows=ROWS)
    print(".", end="", file=sys.stderr, flush=True)
    return _Measured(times["forward"], times["sum"], content.nbytes)


def _verify_record(measured: Sequence[_Measured], rows: int, forward_bytes: int) -> dict[str, Any]:
    """The medians, over the processes, of the median of each one's rounds."""
    over_one_row = [median_ratio(one.forwards[rows], one.forwards[1]) for one in measured]
    shares = [forward_bytes / one.summed_bytes * median_ratio(one.sums[rows], one.forwards[rows]) for one in measured]
    sum_ms = statistics.median(statistics.median(one.sums[rows]) for one in measured)
    return {
        "median_ms": round(statistics.median(statistics.median(one.forwards[rows]) for one in measured), 2),
        "over_one_row": round(statistics.median(over_one_row), 3),
        "gigabytes": round(forward_bytes / 1e9, 3),
        "read_gigabytes_per_second": round(measured[0].summed_bytes / sum_ms / 1e6, 2),
        "of_read_bandwidth": round(statistics.median(shares), 3),
    }


def _draft_times(model: DraftGraph) -> dict[str, float]:
    """Median milliseconds of a round's drafting by shape, in turns; the tokens of the round before are still unread."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, _TOKEN_IDS, size=NUM_PAST + max(ROWS))
    states = random.normal(size=(len(tokens), model.hidden_size)).astype(np.float32)
    drafter = FeatureDrafter(model)
    drafter.begin(SamplingOptions())
    drafter.observe(tokens[:NUM_PAST], states[:NUM_PAST])
    drafter.draft(0, 1, ChainShape.fixed(1))
    times: dict[str, list[float]] = {name: [] for name in PUBLISHED}
    for number in range(ROUNDS):
        for name in in_turn([*PUBLISHED], number):
            published = PUBLISHED[name]
            end = NUM_PAST + round(published.tokens)
            drafter.rewind(NUM_PAST)
            drafter.observe(tokens[NUM_PAST:end], states[NUM_PAST:end])
            draft = partial(drafter.draft, 0, published.rows - 1, published.shape)
            times[name].append(milliseconds(draft))
    return {name: statistics.median(found) for name, found in times.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
