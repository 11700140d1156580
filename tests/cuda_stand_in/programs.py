"""What the tests run in the stand-in's environment: `python programs.py NAME ARGUMENT...`, the result as JSON.

It knows the runtime and nothing of pytest or torch. An error of the project is a result as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import dovetail_ort
from dovetail_ort import ChainShape, DovetailError, GenerationOptions, SamplingOptions
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_names import KEY, VALUE, present
from dovetail_ort_runtime.drafting.drafting_ahead import DraftingAhead
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.engine import first_blocks
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.forward_inputs import padded_ancestors
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.session import open_session
from dovetail_ort_runtime.engine.target import Target

PROMPT = np.random.default_rng(0).integers(3, 384, 24).tolist()


@contextlib.contextmanager
def traced() -> Iterator[list[str]]:
    """The calls that the stand-in gets meanwhile, there at the end."""
    library = ctypes.CDLL("libcudart.so.13")
    calls: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace"
        library.stand_in_trace(bytes(file))
        try:
            yield calls
        finally:
            library.stand_in_trace(None)
            calls += file.read_text().splitlines()


def profiled_nodes(session: Any) -> dict[str, list[str]]:
    """Types of the nodes that ran, by provider."""
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes: dict[str, Counter[str]] = {}
    for event in events:
        if "provider" in event.get("args", {}):
            nodes.setdefault(event["args"]["provider"], Counter())[event["args"]["op_name"]] += 1
    return {provider: sorted(counts) for provider, counts in nodes.items()}


def draft_model(directory: str, **settings: Any) -> DraftGraph:
    """A bundle's drafter on CUDA."""
    bundle = Bundle(directory)
    entry = bundle.manifest.drafter
    assert entry is not None
    return DraftGraph(bundle.path(entry.graph), entry, **{"capacity": 64, "threads": 1, "device": "cuda", **settings})


def draft(model: DraftGraph, num_rows: int, *, tree: bool = False) -> None:
    """A forward after the kept rows."""
    length = model.cache.length
    model.forward(
        np.ones((num_rows, model.hidden_size), dtype=np.float32),
        np.full(num_rows, 5),
        np.arange(length, length + num_rows),
        num_scored=1,
        num_candidates=2,
        ancestors=padded_ancestors([[]] * num_rows) if tree else None,
    )
    model.cache.keep(range(num_rows))


def cut_target(directory: str, *, has_chain_graph: bool = True, **settings: Any) -> Target:
    """A bundle's target with its first blocks on CUDA; without a graph for chains, that with a bias runs."""
    bundle = Bundle(directory)
    entry = bundle.manifest.target
    if not has_chain_graph:
        entry = dataclasses.replace(entry, front_chain_graph=None)
    defaults = {"max_context": 64, "threads": 1, "first_blocks_device": "cuda"}
    return Target(bundle.path(entry.graph), entry, **{**defaults, **settings})


def verify(target: Target, num_rows: int) -> None:
    """A forward after the kept rows."""
    length = target.cache.length
    target.forward(ForwardRows.chain(np.full(num_rows, 5), length))
    target.cache.keep(range(num_rows))


def drafter_nodes(directory: str, kind: str) -> dict[str, Any]:
    """Where ONNX Runtime put the nodes of the graph for a `tree` or a `chain`, and which ran where."""
    with tempfile.TemporaryDirectory() as folder:
        model = draft_model(directory, trees=kind == "tree", trace=Path(folder) / "profile")
        draft(model, 1)
        return {"assigned": model.report().nodes, "ran": profiled_nodes(model.session)}


def front_nodes(directory: str, kind: str) -> dict[str, Any]:
    """As `drafter_nodes`."""
    with tempfile.TemporaryDirectory() as folder:
        first_blocks.open_session = functools.partial(open_session, trace=Path(folder) / "profile")
        target = cut_target(directory, has_chain_graph=kind == "chain")
        assert target.first_blocks is not None
        verify(target, 4)
        return {"assigned": target.first_blocks.report().nodes, "ran": profiled_nodes(target.first_blocks.session)}


def draft_forward(directory: str, num_rows: str, kind: str, num_past: str = "0") -> list[str]:
    """Calls of a forward, of a `tree` or a `chain`, after so many tokens, when others of its size have run before."""
    model = draft_model(directory, capacity=512, trees=kind == "tree")
    while model.cache.length < int(num_past):
        draft(model, model.max_rows)
    for _ in range(3):
        with traced() as calls:
            draft(model, int(num_rows), tree=kind == "tree")
    return calls


def front_forward(directory: str, num_rows: str, kind: str) -> list[str]:
    """As `draft_forward`, of the target: its other blocks are on the CPU and call nothing."""
    target = cut_target(directory, has_chain_graph=kind == "chain")
    for _ in range(3):
        with traced() as calls:
            verify(target, int(num_rows))
    return calls


def forward_into_another_cache(directory: str) -> list[str]:
    """As `draft_forward`, where keys and values are to be written elsewhere than they are read."""
    model = draft_model(directory)
    draft(model, 1)
    elsewhere = draft_model(directory).cache
    (forward,) = model._forwards.values()
    for part, shape, address in zip((KEY, VALUE), elsewhere.shape.buffers, elsewhere.addresses, strict=True):
        forward.binding.bind_output(present(0, part), "cuda", 0, np.float16, shape, address)
    with traced() as calls:
        draft(model, 1)
    return calls


class Patient(DraftingAhead):
    """Waits until all that can be drafted ahead is drafted, as a slow target lets it."""

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        self.wait()
        super().observe(token_ids, hidden_states)


def draft_ahead(directory: str) -> dict[str, Any]:
    """Token ids of the baseline's answer and of one with drafting ahead, and how many drafts were ready."""
    drafter = Patient(FeatureDrafter(draft_model(directory, capacity=512)))
    model = dovetail_ort.load(directory, threads=1, drafter=drafter)
    baseline, speculative = (
        model.generate(PROMPT, GenerationOptions(max_new_tokens=40, sampling=SamplingOptions(), max_draft_tokens=most))
        for most in (0, 8)
    )
    return {
        "baseline": list(baseline.token_ids),
        "speculative": list(speculative.token_ids),
        "num_accepted": speculative.statistics.accepted_tokens,
        "num_drafts": drafter.num_drafts,
        "num_ready": drafter.num_ready,
    }


def load_drafter(directory: str, device: str) -> dict[str, Any]:
    """Where the drafter of a loaded bundle is, and the GPU's memory that is in use then."""
    model = dovetail_ort.load(
        directory, threads=1, drafter="dgf", drafter_device=device, draft_shape=ChainShape.fixed(4)
    )
    target, drafter = model.sessions()
    assert target.device == "cpu"
    return {"device": drafter.device, "vram_bytes": drafter.vram_bytes}


def load_front(directory: str, layers: str) -> dict[str, Any]:
    """As `load_drafter`, of the first blocks of a target that was cut."""
    number = layers if layers == "auto" else int(layers)
    model = dovetail_ort.load(directory, threads=1, drafter="none", target_layers_on_gpu=number)
    first, rest = model.sessions()
    assert rest.device == "cpu"
    return {"device": first.device, "vram_bytes": first.vram_bytes}


def fill_cache(directory: str, part: str, vram_limit: str) -> dict[str, Any]:
    """Forwards of several sizes until the cache of a `drafter` or a `front` is full.

    Rows of the largest, the most of the device's memory that was held meanwhile, and the error that ended it.
    """
    result: dict[str, Any] = {"max_rows": 0, "error": None}
    with traced() as calls:
        try:
            model: DraftGraph | Target
            if part == "drafter":
                model = draft_model(directory, capacity=512, vram_limit=int(vram_limit))
            else:
                model = cut_target(directory, max_context=512, vram_limit=int(vram_limit))
            result["max_rows"] = model.max_rows
            for num_rows in itertools.cycle((2, 3, model.max_rows // 2 + 1, model.max_rows)):
                left = model.cache.capacity - model.cache.length
                if left < 2:  # a forward of the target has two rows or more
                    break
                run_rows(model, min(num_rows, model.max_rows, left))
        except DovetailError as error:
            result |= {"error": type(error).__name__, "message": str(error)}
    held = itertools.accumulate(_bytes_taken(call) for call in calls)
    return {**result, "peak_bytes": max(held, default=0)}


def run_rows(model: DraftGraph | Target, num_rows: int) -> None:
    """A forward after the kept rows."""
    if isinstance(model, Target):
        verify(model, num_rows)
    else:
        draft(model, num_rows)


def _bytes_taken(call: str) -> int:
    kind, *words = call.split()
    return {"allocate": 1, "release": -1}.get(kind, 0) * int(words[0]) if kind in ("allocate", "release") else 0


def main(name: str, *arguments: str) -> None:
    try:
        result = globals()[name](*arguments)
    except DovetailError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
