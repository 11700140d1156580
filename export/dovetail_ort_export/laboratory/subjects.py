"""A bundle's graphs, alike for target and drafter: where they lie, and as things that run passes of so many rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.draft_model import DraftModel
from dovetail_ort_runtime.environment import usable_cores
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.row_invariance import run_in_chunks
from dovetail_ort_runtime.target import Target
from dovetail_ort_runtime.verification_input import VerificationInput

TARGET: Final = "target"
DRAFTER: Final = "drafter"
_NUM_CANDIDATES: Final = 8


@dataclass(frozen=True, slots=True)
class Subject:
    """What is timed.

    Attributes:
        session: of the graph.
        run: one pass over so many new tokens behind those that are kept.
    """

    session: Any
    run: Callable[[int], None]


def graph_path(path: Path, graph: str) -> Path:
    """Where the ONNX file lies that is meant: `path` itself, or the graph `graph` of the bundle there.

    Raises:
        InputError: the bundle has no such graph.
        BundleError: there is neither a file nor a bundle.
    """
    if path.is_file():
        return path
    bundle = Bundle(path)
    entry = {TARGET: bundle.manifest.target, DRAFTER: bundle.manifest.drafter}[graph]
    if entry is None:
        raise InputError(f"the bundle must have a {graph}, got none in {str(path)!r}; see dovetail-ort attach")
    return bundle.path(entry.graph)


def open_subject(
    bundle: Bundle, graph: str, *, num_past: int, max_rows: int, threads: int | None = None, trace: Path | None = None
) -> Subject:
    """A bundle's target or drafter behind `num_past` kept tokens, ready to run on all usable physical cores by default.

    Raises:
        InputError: the graph is not there, or has no room for that.
    """
    opened = _target if graph == TARGET else _drafter
    return opened(bundle, num_past, max_rows, threads or usable_cores(), trace)


def _target(bundle: Bundle, num_past: int, max_rows: int, threads: int, trace: Path | None) -> Subject:
    entry = bundle.manifest.target
    capacity = num_past + max_rows + 1
    if max_rows > entry.max_rows or capacity > entry.max_context:
        raise InputError(
            f"a pass must have at most {entry.max_rows} rows and a text {entry.max_context} tokens, got {max_rows} "
            f"rows behind {num_past}"
        )
    target = Target(bundle.path(entry.graph), entry, max_context=capacity, threads=threads, trace=trace)
    if num_past:
        run_in_chunks(target, np.arange(num_past) % entry.vocabulary_size, entry.max_rows)

    def run(rows: int) -> None:
        tokens = np.arange(rows) % entry.vocabulary_size
        # One row goes through the one-row kernel.
        target.forward(VerificationInput.prompt(tokens, target.cache.length), exact=False)

    return Subject(target.session, run)


def _drafter(bundle: Bundle, num_past: int, max_rows: int, threads: int, trace: Path | None) -> Subject:
    entry = bundle.manifest.drafter
    if entry is None:
        raise InputError("the bundle must have a drafter, got one without; see dovetail-ort attach")
    capacity = num_past + max_rows
    if max_rows > entry.max_rows or capacity > bundle.manifest.target.max_context:
        raise InputError(f"a drafter's pass must have at most {entry.max_rows} rows, got {max_rows}")
    model = DraftModel(bundle.path(entry.graph), entry, capacity=capacity, threads=threads, trace=trace)
    return Subject(model.session, drafter_passes(model, num_past))


def drafter_passes(model: DraftModel, num_past: int) -> Callable[[int], None]:
    """What runs a pass of `model` over so many new tokens behind `num_past` kept ones, and ranks candidates once."""

    def run(rows: int) -> None:
        first = model.cache.length
        model.forward(
            np.zeros((rows, model.hidden_size), dtype=np.float32),
            np.arange(rows),
            np.arange(first, first + rows),
            scored_rows=np.array([rows - 1]),
            num_candidates=_NUM_CANDIDATES,
        )

    while (left := min(num_past - model.cache.length, model.max_rows)) > 0:
        run(left)
        model.cache.keep(range(left))
    return run
