"""A bundle's graphs, alike for target and drafter: where they lie, and what runs forwards of so many rows over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from dovetail_ort_export.checking.check_text import read_check_text
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry, TargetEntry
from dovetail_ort_runtime.engine.devices import CPU
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.forward_times import RunForward, target_forwards
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.engine.target_graphs import graphs_to_load
from dovetail_ort_runtime.errors import InputError

TARGET: Final = "target"
DRAFTER: Final = "drafter"
_NUM_CANDIDATES: Final = 8


def attached_drafter(bundle: Bundle) -> DrafterEntry:
    """What the manifest says of the drafter.

    Raises:
        InputError: there is none.
    """
    if bundle.manifest.drafter is None:
        raise InputError(
            f"the bundle must have a drafter, got none in {str(bundle.directory)!r}; see dovetail-ort attach"
        )
    return bundle.manifest.drafter


def graph_entry(bundle: Bundle, graph: str) -> TargetEntry | DrafterEntry:
    """What the manifest says of the target or of the drafter, errors as of `attached_drafter`."""
    return bundle.manifest.target if graph == TARGET else attached_drafter(bundle)


def graph_path(path: Path, graph: str) -> Path:
    """Where the ONNX file lies that is meant: `path` itself, or the graph `graph` of the bundle there.

    Raises:
        InputError: the bundle has no such graph.
        BundleError: there is neither a file nor a bundle.
    """
    if path.is_file():
        return path
    bundle = Bundle(path)
    return bundle.path(graph_entry(bundle, graph).graph)


def loaded_graph(bundle: Bundle, graph: str) -> Path:
    """The file of the graph that runs here, errors as of `attached_drafter`: a native one only where it can."""
    entry = graph_entry(bundle, graph)
    path = bundle.path(entry.graph)
    return graphs_to_load(path, entry, CPU).graph if isinstance(entry, TargetEntry) else path


def check_tokens(bundle: Bundle, most: int) -> TokenArray:
    """The built-in check text, (T,) int64: `most` tokens at most, and one fewer than the cache has slots."""
    token_ids = bundle.tokenizer().encode(read_check_text(None), add_special_tokens=False)
    return np.array(token_ids[: min(most, bundle.manifest.target.max_context - 1)], dtype=np.int64)


def open_forwards(
    bundle: Bundle, graph: str, *, num_past: int, max_rows: int, threads: int, trace: Path | None = None
) -> tuple[Any, RunForward]:
    """The session of a bundle's target or drafter, and what runs its forwards behind `num_past` kept tokens.

    Raises:
        InputError: the graph is not there, or has no room for that.
    """
    max_context = bundle.manifest.target.max_context
    if graph == DRAFTER:
        drafter = attached_drafter(bundle)
        capacity = num_past + max_rows
        if max_rows > drafter.max_rows or capacity > max_context:
            raise InputError(f"a drafter's forward must have at most {drafter.max_rows} rows, got {max_rows}")
        model = DraftGraph(bundle.path(drafter.graph), drafter, capacity=capacity, threads=threads, trace=trace)
        return model.session, drafter_forwards(model, num_past)
    entry, capacity = bundle.manifest.target, num_past + max_rows + 1
    if max_rows > entry.max_rows or capacity > max_context:
        raise InputError(
            f"a forward must have at most {entry.max_rows} rows and a text {max_context} tokens, got {max_rows} "
            f"rows behind {num_past}"
        )
    target = Target(bundle.path(entry.graph), entry, max_context=capacity, threads=threads, trace=trace)
    return target.session, target_forwards(target, num_past)


def drafter_forwards(model: DraftGraph, num_past: int) -> RunForward:
    """As `target_forwards`, of a drafter; candidates are ranked once."""

    def run(rows: int) -> None:
        first = model.cache.length
        model.forward(
            np.zeros((rows, model.hidden_size), dtype=np.float32),
            np.arange(rows),
            np.arange(first, first + rows),
            num_scored=1,
            num_candidates=_NUM_CANDIDATES,
        )

    while (left := min(num_past - model.cache.length, model.max_rows)) > 0:
        run(left)
        model.cache.keep(range(left))
    return run
