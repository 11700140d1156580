"""A drafter of LLaMA-2-7B's shape with random weights on CUDA: milliseconds and memory; JSON on standard output.

    python -m benchmarks.gpu.paper_drafter BLOCKS --rounds 40 --vram-limit 3.2GB

`--divisor` makes the drafter narrower, for a rehearsal.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu.forwards import CHAINS, CONTEXT, ROWS, TREES, described, time_drafts, time_forwards
from benchmarks.paper_size.random_drafters import write_random_drafter
from dovetail_ort_export.writing.target_ends import TargetEnds
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry, TargetEntry
from dovetail_ort_runtime.checks import parse_bytes
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.devices import CUDA, require_cuda
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.machine.cuda_runtime import vram_in_use

_CAPACITY: Final = 512
_HEAD_SIZE: Final = 128
_POSITIONS: Final = 4096


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("blocks", type=int)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--vram-limit", type=parse_bytes)
    parser.add_argument("--divisor", type=int, default=1)
    given = parser.parse_args()
    require_cuda()
    with tempfile.TemporaryDirectory() as folder:
        entry = _write(Path(folder), given.blocks, given.divisor)
        measure = partial(_measure, Path(folder) / entry.graph, entry, given.vram_limit, given.rounds)
        found = {
            "blocks": given.blocks,
            "num_parameters": entry.num_parameters,
            "vram_limit": given.vram_limit,
            "for chains": measure(CHAINS),
            "for trees": measure(TREES),
        }
    print(json.dumps(found, indent=1))


def _measure(
    graph: Path, entry: DrafterEntry, vram_limit: int | None, rounds: int, shapes: Mapping[str, ChainShape | TreeShape]
) -> dict[str, Any]:
    """Measure one of the two graphs; its memory is freed at the end."""
    before = vram_in_use()
    started = time.perf_counter()
    model = DraftGraph(
        graph,
        entry,
        capacity=_CAPACITY,
        threads=1,
        device=CUDA,
        vram_limit=vram_limit,
        trees=shapes is TREES,
    )
    return {
        "load_s": round(time.perf_counter() - started, 1),
        **described(model),
        "forwards": {str(CONTEXT): time_forwards(model, CONTEXT, rounds)},
        "drafts": time_drafts(model, shapes, rounds),
        "vram_bytes": _difference(vram_in_use(), before),
    }


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def _write(folder: Path, blocks: int, divisor: int) -> DrafterEntry:
    """Write the draft graph in fp16."""
    target = _target(divisor)
    return write_random_drafter(target, _ends(target), folder, blocks, "fp16")


def _target(divisor: int) -> TargetEntry:
    """An entry with LLaMA-2-7B's dimensions, without a graph."""
    heads = 32 // divisor
    return TargetEntry(
        graph="none.onnx",
        family="llama",
        precision="fp16",
        exact=False,
        hidden_size=4096 // divisor,
        intermediate_size=11008 // divisor // 32 * 32,
        num_layers=1,
        num_parameters=0,
        num_heads=heads,
        num_kv_heads=heads,
        head_size=_HEAD_SIZE,
        vocabulary_size=32000 // divisor,
        max_context=_POSITIONS,
        max_rows=max(ROWS),
        weights_sha256="0" * 64,
    )


def _ends(target: TargetEntry) -> TargetEnds:
    """Random ends whose rows repeat: drawing all rows would take longer than the measurement."""
    random = np.random.default_rng(0)
    drawn = (0.02 * random.standard_normal((997, target.hidden_size))).astype(np.float32)
    table = np.resize(drawn, (target.vocabulary_size, target.hidden_size))
    angles = np.outer(np.arange(_POSITIONS), 10000.0 ** (-np.arange(_HEAD_SIZE // 2) / (_HEAD_SIZE // 2)))
    return TargetEnds(
        embedding=table,
        head=table,
        cos=np.cos(angles).astype(np.float32),
        sin=np.sin(angles).astype(np.float32),
        norm_epsilon=1e-5,
    )


if __name__ == "__main__":
    main()
