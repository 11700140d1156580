"""A bundle's graphs, alike for target and drafter: where they lie, and as things that run passes of so many rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

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
GRAPHS: Final = (TARGET, DRAFTER)
_NUM_CANDIDATES: Final = 8


class Subject(Protocol):
    """What is timed."""

    session: Any

    def run(self, rows: int) -> None:
        """One pass over `rows` new tokens behind those that are kept."""


class TargetSubject:
    """The target behind `num_past` kept tokens."""

    def __init__(self, bundle: Bundle, *, num_past: int, max_rows: int, threads: int, trace: Path | None) -> None:
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
        self._target, self.session = target, target.session

    def run(self, rows: int) -> None:
        """One pass, by the one-row kernel where there is one row."""
        tokens = np.arange(rows) % self._target.vocabulary_size
        self._target.forward(VerificationInput.prompt(tokens, self._target.cache.length), exact=False)


class DrafterSubject:
    """The drafter behind `num_past` kept tokens, ranking what follows the last row."""

    def __init__(self, bundle: Bundle, *, num_past: int, max_rows: int, threads: int, trace: Path | None) -> None:
        entry = bundle.manifest.drafter
        if entry is None:
            raise InputError("the bundle must have a drafter, got one without; see dovetail-ort attach")
        capacity = num_past + max_rows
        if max_rows > entry.max_rows or capacity > bundle.manifest.target.max_context:
            raise InputError(f"a drafter's pass must have at most {entry.max_rows} rows, got {max_rows}")
        self._model = DraftModel(bundle.path(entry.graph), entry, capacity=capacity, threads=threads, trace=trace)
        self.session = self._model.session
        while (left := num_past - self._model.cache.length) > 0:
            self.run(min(left, entry.max_rows))
            self._model.cache.keep(range(min(left, entry.max_rows)))

    def run(self, rows: int) -> None:
        """One pass."""
        first = self._model.cache.length
        self._model.forward(
            np.zeros((rows, self._model.hidden_size), dtype=np.float32),
            np.arange(rows),
            np.arange(first, first + rows),
            scored_rows=np.array([rows - 1]),
            num_candidates=_NUM_CANDIDATES,
        )


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
    """One of a bundle's `GRAPHS` behind `num_past` kept tokens, ready to run on all usable physical cores by default.

    Raises:
        InputError: the graph is not there, or has no room for that.
    """
    kind = TargetSubject if graph == TARGET else DrafterSubject
    return kind(bundle, num_past=num_past, max_rows=max_rows, threads=threads or usable_cores(), trace=trace)
