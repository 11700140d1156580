"""The two workshops of an ablation: one makes targets from a source, the other makes drafters from a head."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from dovetail_ort_export.checking.agreement import divergence, measure_target
from dovetail_ort_export.checking.check_text import checked_tokens
from dovetail_ort_export.checking.reference import reference_logits
from dovetail_ort_export.laboratory.ablation import ROWS, OpenGraph, Workshop
from dovetail_ort_export.laboratory.graphs import attached_drafter, check_tokens, drafter_forwards
from dovetail_ort_export.options import ExportOptions, Report
from dovetail_ort_export.quantization.cache_range import measured_cache
from dovetail_ort_export.recipe import Recipe, Step
from dovetail_ort_export.source import SourceOptions, load_source
from dovetail_ort_export.training.head_files import load_head
from dovetail_ort_export.writing.drafter_parts import own_parts
from dovetail_ort_export.writing.drafter_writer import drafter_entry, drafter_graph, drafter_recipe, write_drafter
from dovetail_ort_export.writing.graph_file import graph_name
from dovetail_ort_export.writing.target_ends import read_target_ends
from dovetail_ort_export.writing.target_writer import TargetWriter
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.formats import FP32, PORTABLE
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry, TargetEntry
from dovetail_ort_runtime.bundle.graph_names import DRAFTER, TARGET
from dovetail_ort_runtime.bundle.manifest import Manifest
from dovetail_ort_runtime.bundle.measurements import Agreement, RowInvariance
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.forward_times import NUM_PAST, RunForward, target_forwards
from dovetail_ort_runtime.engine.row_invariance import ROWS_AT_EXPORT
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.machine.processor import usable_cores

# The drafter reads a row for each of these tokens but the last. Of 240 rows, forwards of no size in `ROWS_AT_EXPORT`
# leave a single one over, which would take another kernel.
_NUM_TOKENS: Final = 241


class TargetWorkshop(Workshop[Target]):
    """Makes a bundle's target again, by the recipe in the manifest and by others.

    Args:
        manifest: manifest of the bundle.
        source: the model that the bundle was exported from, as `load_source` takes it.
        report: function that is called with one line of text for each step.

    Raises:
        InputError: the source is another model, or the target is in two pieces.
        SourceError: the source cannot be read.
    """

    graph = TARGET

    def __init__(self, manifest: Manifest, source: str, report: Report) -> None:
        if manifest.target.front_graph is not None:
            raise InputError("this bundle has its target in two pieces; export it without --gpu-layers to ablate it")
        self.recipe = _recipe(TARGET, manifest.target)
        report(f"loading {source}")
        loaded = load_source(source, SourceOptions.of_bundle(manifest))
        self.source = loaded.name
        max_context = manifest.target.max_context
        self._tokens = checked_tokens(loaded, None, max_context)
        report(f"computing the original model's logits of {len(self._tokens)} tokens")
        with measured_cache(loaded.model) as cache_maxima:
            self._reference = reference_logits(loaded.model, self._tokens)
        self._writer: TargetWriter | None = TargetWriter(loaded, ExportOptions(), max_context, cache_maxima, report)
        if self._writer.weights_sha256 != manifest.target.weights_sha256:
            raise InputError(f"the source must be the model of the bundle, got another one in {source!r}")

    def write(self, name: str, recipe: Recipe, folder: Path) -> OpenGraph[Target]:  # noqa: ARG002  the writer reports
        """Write a target as export does."""
        assert self._writer is not None, "targets are written before they are measured"
        folder.mkdir()
        return self._writer.write([recipe], folder).open

    def measure(self, open_graph: OpenGraph[Target]) -> tuple[RowInvariance, Agreement]:
        """Compare a target with the model as export does."""
        self._writer = None  # it holds the model, which takes memory
        gc.collect()
        found = measure_target(open_graph(len(self._tokens)), self._tokens, self._reference)
        return found.row_invariance, found.agreement

    def forwards(self, open_graph: OpenGraph[Target]) -> RunForward:
        """A function that runs forwards of a target, with as much context as leaves room for them."""
        target = open_graph(len(self._tokens))
        num_past = min(NUM_PAST, target.cache.capacity - ROWS[-1])
        return target_forwards(target, num_past)


class DrafterWorkshop(Workshop[DraftGraph]):
    """Makes a bundle's drafter again from its head, and compares what it drafts with the head in float32.

    Args:
        bundle: the bundle with the drafter.
        head_path: directory of the head.
        report: function that is called with one line of text for each step.

    Raises:
        InputError: the bundle has no drafter, or the head is damaged or another target's.
    """

    graph = DRAFTER

    def __init__(self, bundle: Bundle, head_path: Path, report: Report) -> None:
        entry = attached_drafter(bundle)
        self.recipe = _recipe(DRAFTER, entry)
        self.source = head_path.name
        self._report = report
        self._head = load_head(head_path)
        if self._head.record.target_sha256 != entry.target_sha256:
            raise InputError(f"the head must be the one in the bundle, got another target's in {str(head_path)!r}")
        self._ends = read_target_ends(bundle)
        self._max_context = bundle.manifest.target.max_context
        report("reading a text with the target")
        self._tokens = check_tokens(bundle, _NUM_TOKENS)
        self._features = _features(bundle, self._tokens)
        with TemporaryDirectory() as scratch:
            float32 = self.write("the head in float32", drafter_recipe(FP32, PORTABLE), Path(scratch) / "float32")
            self._reference = self._drafted(float32, ROWS_AT_EXPORT[-1])

    def write(self, name: str, recipe: Recipe, folder: Path) -> OpenGraph[DraftGraph]:
        """Write a drafter as attaching does, and open it once: a graph without candidates is refused then."""
        self._report(f"writing {name}")
        file_name = graph_name(DRAFTER, recipe.precision, recipe.format)
        parts = own_parts(self._head.head, self._ends, self._head.draft_token_ids)
        entry = drafter_entry(parts, self._head.record.target_sha256, file_name, recipe)
        graph = drafter_graph(parts, recipe)
        folder.mkdir()
        write_drafter(graph, folder, entry)

        def open_graph(capacity: int) -> DraftGraph:
            return DraftGraph(folder / entry.graph, entry, capacity=capacity, threads=usable_cores())

        open_graph(2)
        return open_graph

    def measure(self, open_graph: OpenGraph[DraftGraph]) -> tuple[RowInvariance, Agreement]:
        """Compare a drafter's distributions over the draft vocabulary, in forwards of several sizes."""
        by_size = [self._drafted(open_graph, rows) for rows in ROWS_AT_EXPORT]
        differences = [float(np.abs(by_size[0] - other).max()) for other in by_size[1:]]
        largest = max(differences)
        invariance = RowInvariance(
            rows=ROWS_AT_EXPORT, num_tokens=len(self._tokens) - 1, identical=largest == 0, largest_difference=largest
        )
        agreement = divergence(by_size[-1], self._reference)
        return invariance, replace(agreement, compared_with="head")

    def forwards(self, open_graph: OpenGraph[DraftGraph]) -> RunForward:
        """A function that runs forwards of a drafter, with as much context as leaves room for them."""
        num_past = min(NUM_PAST, self._max_context - ROWS[-1])
        return drafter_forwards(open_graph(num_past + ROWS[-1]), num_past)

    def _drafted(self, open_graph: OpenGraph[DraftGraph], rows: int) -> FloatArray:
        """Log-probabilities (T - 1, Vd), by token id, that a drafter gives over the text in forwards of `rows` rows."""
        num_rows = len(self._tokens) - 1
        width = len(self._head.draft_token_ids)
        model = open_graph(num_rows)
        found = np.empty((num_rows, width), dtype=np.float32)
        for start in range(0, num_rows, rows):
            end = min(start + rows, num_rows)
            drafted = model.forward(
                self._features[start:end],
                self._tokens[start + 1 : end + 1],
                np.arange(start, end),
                num_scored=end - start,
                num_candidates=width,
            )
            order = drafted.candidate_ids.argsort(axis=-1)
            found[start:end] = np.take_along_axis(drafted.log_probabilities, order, axis=-1)
            model.cache.keep(range(end - start))
        return found


def _features(bundle: Bundle, token_ids: TokenArray) -> FloatArray:
    """(T, E) float32, the features of a text by a bundle's target."""
    entry = bundle.manifest.target
    target = Target(bundle.path(entry.graph), entry, max_context=len(token_ids) + 1)
    return target.read(token_ids).hidden_states


def _recipe(graph: str, entry: TargetEntry | DrafterEntry) -> Recipe:
    """The recipe that a bundle's graph was made by."""
    if not entry.passes:
        raise InputError(f"this bundle is too old to name the graph passes of its {graph}; export the model again")
    return Recipe(entry.precision, tuple(map(Step.parse, entry.passes)))
