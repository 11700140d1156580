"""What the forwards, chains and trees of a drafter cost on a device; JSON on standard output.

python -m benchmarks.gpu.forwards BUNDLE DEVICE --rounds 200 --contexts 256,3900
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.timing import time_rounds
from dovetail_ort_runtime import SamplingOptions
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.devices import CUDA
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.machine.cuda_runtime import vram_in_use
from dovetail_ort_runtime.machine.processor import usable_cores

ROWS: Final = (1, 4, 8, 64)
CONTEXT: Final = 256
# The tokens of a round that the target kept, which a drafter reads first.
KEPT: Final = 4
CHAINS: Final[dict[str, ChainShape | TreeShape]] = {
    f"chain {number}": ChainShape.fixed(number) for number in (1, 3, 4, 5, 7, 8)
}
TREES: Final[dict[str, ChainShape | TreeShape]] = {
    f"tree {rows}/{depth}/10": TreeShape(num_rows=rows, num_expansions=depth, width=10)
    for rows, depth in ((7, 4), (16, 7))
}
_TOKEN_IDS: Final = 256


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("device")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--contexts", required=True, help="tokens of context, separated by commas")
    given = parser.parse_args()
    contexts = [int(number) for number in given.contexts.split(",")]
    bundle = Bundle(given.bundle)
    found = {"device": given.device, "for chains": _measure(bundle, given.device, contexts, CHAINS, given.rounds)}
    found["for trees"] = _measure(bundle, given.device, contexts, TREES, given.rounds)
    print(json.dumps(found, indent=1))


def _measure(
    bundle: Bundle, device: str, contexts: Sequence[int], shapes: Mapping[str, ChainShape | TreeShape], rounds: int
) -> dict[str, Any]:
    """The graph for chains, or the one for trees; on the CPU it is the same graph."""
    entry = bundle.manifest.drafter
    assert entry is not None
    started = time.perf_counter()
    model = DraftGraph(
        bundle.path(entry.graph),
        entry,
        capacity=max(*contexts, CONTEXT) + 2 * max(ROWS),
        threads=usable_cores(),
        device=device,
        trees=shapes is TREES,
    )
    return {
        "precision": entry.precision,
        "load_s": round(time.perf_counter() - started, 2),
        **described(model),
        "forwards": {str(context): time_forwards(model, context, rounds) for context in contexts},
        "drafts": time_drafts(model, shapes, max(2, rounds // 4)),
        "vram_bytes": vram_in_use() if device == CUDA else None,
    }


def described(model: DraftGraph) -> dict[str, Any]:
    """The nodes of a graph by provider, and its bytes."""
    report = model.report()
    return {name: getattr(report, name) for name in ("nodes", "weight_bytes", "cache_bytes")}


def time_forwards(model: DraftGraph, context: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of forwards with `context` tokens of context, by rows; the cache is empty afterwards."""
    fill(model, context)
    found = {}
    for rows in ROWS:
        run = forward_of(model, rows)
        found[str(rows)] = time_rounds(run, rounds)
    model.cache.rewind(0)
    return found


def time_drafts(model: DraftGraph, shapes: Mapping[str, ChainShape | TreeShape], rounds: int) -> dict[str, Any]:
    """Milliseconds of chains or trees by shape: as in a round, the kept tokens are read, and then it is drafted."""
    random = np.random.default_rng(0)
    total = CONTEXT + KEPT
    tokens = random.integers(0, _TOKEN_IDS, total)
    states = random.normal(size=(total, model.hidden_size)).astype(np.float32)
    drafter = FeatureDrafter(model)
    drafter.begin(SamplingOptions())
    drafter.observe(tokens[:CONTEXT], states[:CONTEXT])
    drafter.draft(0, 1, ChainShape.fixed(1))
    found = {}
    for name, shape in shapes.items():

        def draft(shape: ChainShape | TreeShape = shape) -> None:
            drafter.rewind(CONTEXT)
            drafter.observe(tokens[CONTEXT:], states[CONTEXT:])
            drafter.draft(0, max(ROWS) - 1, shape)

        found[name] = time_rounds(draft, rounds)
    drafter.rewind(0)
    return found


def fill(model: DraftGraph, length: int) -> None:
    """Read tokens into an empty cache."""
    while model.cache.length < length:
        rows = min(max(ROWS), length - model.cache.length)
        forward_of(model, rows)()
        model.cache.keep(range(rows))


def forward_of(model: DraftGraph, rows: int) -> Callable[[], Any]:
    """A forward over random rows after the kept ones; the last row is scored."""
    random = np.random.default_rng(rows)
    start = model.cache.length
    return partial(
        model.forward,
        random.normal(size=(rows, model.hidden_size)).astype(np.float32),
        random.integers(0, _TOKEN_IDS, rows),
        np.arange(start, start + rows),
        num_scored=1,
        num_candidates=1,
    )


if __name__ == "__main__":
    main()
