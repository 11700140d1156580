"""The graphs of a bundle, target or drafter: their files, and functions that run forwards. It knows no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_export.checking.check_text import read_check_text
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry, TargetEntry
from dovetail_ort_runtime.bundle.graph_names import TARGET
from dovetail_ort_runtime.engine.devices import CPU
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.forward_times import RunForward, target_forwards
from dovetail_ort_runtime.engine.graph_choice import graphs_to_load
from dovetail_ort_runtime.engine.ort_protocols import Session
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError

_NUM_CANDIDATES: Final = 8


def attached_drafter(bundle: Bundle) -> DrafterEntry:
    """What the manifest says of a bundle's drafter.

    Raises:
        InputError: the bundle has no drafter.
    """
    if bundle.manifest.drafter is None:
        raise InputError(f"the bundle {str(bundle.directory)!r} has no drafter; add one with: dovetail-ort attach")
    return bundle.manifest.drafter


def graph_entry(bundle: Bundle, graph: str) -> TargetEntry | DrafterEntry:
    """What the manifest says of a bundle's graph.

    Args:
        bundle: the bundle.
        graph: `target` or `drafter`.

    Raises:
        InputError: the bundle has no drafter.
    """
    return bundle.manifest.target if graph == TARGET else attached_drafter(bundle)


def graph_path(path: Path, graph: str) -> Path:
    """The ONNX file that is meant.

    Args:
        path: the ONNX file itself, or the directory of a bundle.
        graph: `target` or `drafter`, the graph of the bundle that is meant.

    Raises:
        InputError: the bundle has no drafter.
        BundleError: there is neither a file nor a bundle.
    """
    if path.is_file():
        return path
    bundle = Bundle(path)
    return bundle.path(graph_entry(bundle, graph).graph)


def loaded_graph(bundle: Bundle, graph: str) -> Path:
    """The ONNX file of the graph that runs on this machine: the portable one where the native one cannot.

    Args:
        bundle: the bundle.
        graph: `target` or `drafter`.

    Raises:
        InputError: the bundle has no drafter.
    """
    entry = graph_entry(bundle, graph)
    path = bundle.path(entry.graph)
    if isinstance(entry, TargetEntry):
        return graphs_to_load(path, entry, CPU).graph
    return path


def check_tokens(bundle: Bundle, most: int) -> TokenArray:
    """The built-in check text as token ids.

    Args:
        bundle: bundle whose tokenizer and largest context are used.
        most: largest number of tokens that are wanted.

    Returns:
        (T,) int64, as many as are wanted, but fewer than the context has room for.
    """
    token_ids = bundle.tokenizer().encode(read_check_text(None), add_special_tokens=False)
    num_tokens = min(most, bundle.manifest.target.max_context - 1)
    return np.array(token_ids[:num_tokens], dtype=np.int64)


def open_forwards(
    bundle: Bundle, graph: str, *, num_past: int, max_rows: int, threads: int, trace: Path | None = None
) -> tuple[Session, RunForward]:
    """Open a bundle's graph to run forwards over it.

    Args:
        bundle: the bundle.
        graph: `target` or `drafter`.
        num_past: tokens of context before each forward.
        max_rows: rows of the largest forward.
        threads: number of threads that one forward uses.
        trace: beginning of the name of ONNX Runtime's profile; None for no profile.

    Returns:
        The graph's session, and a function that runs forwards.

    Raises:
        InputError: the bundle has no drafter, or the graph has no room for such forwards.
    """
    entry = graph_entry(bundle, graph)
    path = bundle.path(entry.graph)
    max_context = bundle.manifest.target.max_context
    if max_rows > entry.max_rows:
        raise InputError(f"a forward of this {graph} must have at most {entry.max_rows} rows, got {max_rows}")
    capacity = num_past + max_rows
    if isinstance(entry, TargetEntry):
        capacity += 1  # for the row that pads a portable forward
    if capacity > max_context:
        raise InputError(
            f"the tokens of context and the rows of a forward must fit into the bundle's {max_context} tokens, "
            f"got {num_past} and {max_rows}"
        )
    if isinstance(entry, TargetEntry):
        target = Target(path, entry, max_context=capacity, threads=threads, trace=trace)
        return target.session, target_forwards(target, num_past)
    drafter = DraftGraph(path, entry, capacity=capacity, threads=threads, trace=trace)
    return drafter.session, drafter_forwards(drafter, num_past)


def drafter_forwards(model: DraftGraph, num_past: int) -> RunForward:
    """A function that runs forwards of a drafter, each of which ranks candidates once.

    Args:
        model: the drafter, with an empty cache.
        num_past: tokens of context before each forward.
    """

    def run(rows: int) -> None:
        first = model.cache.length
        model.forward(
            np.zeros((rows, model.hidden_size), dtype=np.float32),
            np.arange(rows),
            np.arange(first, first + rows),
            num_scored=1,
            num_candidates=_NUM_CANDIDATES,
        )

    while model.cache.length < num_past:
        rows = min(num_past - model.cache.length, model.max_rows)
        run(rows)
        model.cache.keep(range(rows))
    return run
