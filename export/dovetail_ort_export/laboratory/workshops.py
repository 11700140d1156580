"""What an ablation makes its variants with: a source for a bundle's target, a trained head for its drafter."""

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
from dovetail_ort_export.laboratory.graphs import DRAFTER, TARGET, attached_drafter, check_tokens, drafter_forwards
from dovetail_ort_export.options import ExportOptions, Report
from dovetail_ort_export.quantization.cache_range import measured_cache
from dovetail_ort_export.recipe import Recipe, Step
from dovetail_ort_export.source import SourceOptions, load_source
from dovetail_ort_export.training.head_files import load_head
from dovetail_ort_export.writing.drafter_writer import drafter_entry, drafter_graph, drafter_recipe, write_drafter
from dovetail_ort_export.writing.graph_file import graph_name
from dovetail_ort_export.writing.target_ends import read_target_ends
from dovetail_ort_export.writing.target_writer import TargetWriter
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.formats import PORTABLE
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry, TargetEntry
from dovetail_ort_runtime.bundle.manifest import Manifest
from dovetail_ort_runtime.bundle.measurements import Agreement, RowInvariance
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.forward_times import NUM_PAST, RunForward, target_forwards
from dovetail_ort_runtime.engine.row_invariance import ROWS_AT_EXPORT, run_in_chunks
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.machine.processor import usable_cores

# All but the last are drafted behind: 240 rows, of which forwards of no size in `ROWS_AT_EXPORT` leave a single one.
# One row takes another kernel.
_NUM_TOKENS: Final = 241


class TargetWorkshop(Workshop):
    """Makes a bundle's target again from the model `source`, by the recipe in the manifest and by others.

    Raises:
        InputError: the source is another model, the target was cut.
        SourceError: the source cannot be read.
    """

    graph = TARGET

    def __init__(self, manifest: Manifest, source: str, report: Report) -> None:
        if manifest.target.front_graph is not None:
            raise InputError("the target must be in one piece, got one that was cut; export it without --gpu-layers")
        self.recipe = _recipe(TARGET, manifest.target)
        report(f"loading {source}")
        loaded = load_source(source, SourceOptions.of_bundle(manifest))
        self.source = loaded.name
        self._tokens = checked_tokens(loaded, None, manifest.target.max_context)
        report(f"asking the original model about {len(self._tokens)} tokens")
        with measured_cache(loaded.model) as cache_maxima:
            self._reference = reference_logits(loaded.model, self._tokens)
        max_context = manifest.target.max_context
        self._writer: TargetWriter | None = TargetWriter(loaded, ExportOptions(), max_context, cache_maxima, report)
        if self._writer.weights_sha256 != manifest.target.weights_sha256:
            raise InputError(f"the source must be the model of the bundle, got another one in {source!r}")

    def write(self, name: str, recipe: Recipe, folder: Path) -> OpenGraph:  # noqa: ARG002  the writer says what it writes
        """By the writer of exports."""
        assert self._writer is not None, "targets are written before they are measured"
        folder.mkdir()
        return self._writer.write([recipe], folder).open

    def measure(self, open_graph: OpenGraph) -> tuple[RowInvariance, Agreement]:
        """As export does."""
        self._writer = None  # the model, which takes memory
        gc.collect()
        found = measure_target(open_graph(len(self._tokens)), self._tokens, self._reference)
        return found.row_invariance, found.agreement

    def forwards(self, open_graph: OpenGraph) -> RunForward:
        """With as many kept tokens as leave room."""
        target = open_graph(len(self._tokens))
        return target_forwards(target, min(NUM_PAST, target.cache.capacity - ROWS[-1]))


class DrafterWorkshop(Workshop):
    """Makes a bundle's drafter again from its head; what it drafts is compared with the head's in float32.

    Raises:
        InputError: the bundle has no drafter, or the head is damaged or another target's.
    """

    graph = DRAFTER

    def __init__(self, bundle: Bundle, head_path: Path, report: Report) -> None:
        entry = attached_drafter(bundle)
        self.recipe = _recipe(DRAFTER, entry)
        self.source = head_path.name
        self._report = report
        self._head, self._draft_token_ids, self._record = load_head(head_path)
        if self._record.target_sha256 != entry.target_sha256:
            raise InputError(f"the head must be the one in the bundle, got another target's in {str(head_path)!r}")
        self._ends = read_target_ends(bundle)
        report("reading a text with the target")
        target_entry = bundle.manifest.target
        self._max_context = target_entry.max_context
        self._tokens = check_tokens(bundle, _NUM_TOKENS)
        target = Target(bundle.path(target_entry.graph), target_entry, max_context=len(self._tokens) + 1)
        _, self._features = run_in_chunks(target, self._tokens, target.max_rows)
        with TemporaryDirectory() as scratch:
            float32 = self.write("the head in float32", drafter_recipe("fp32", PORTABLE), Path(scratch) / "float32")
            self._reference = self._drafted(float32, ROWS_AT_EXPORT[-1])

    def write(self, name: str, recipe: Recipe, folder: Path) -> OpenGraph:
        """As attaching does; the graph is opened, which refuses one without candidates."""
        self._report(f"writing {name}")
        name = graph_name("drafter", recipe.precision, recipe.format)
        entry = drafter_entry(self._head, self._draft_token_ids, self._record.target_sha256, name, recipe)
        graph = drafter_graph(self._head, self._ends, self._draft_token_ids, recipe)
        folder.mkdir()
        write_drafter(graph, folder, entry)

        def open_graph(capacity: int) -> DraftGraph:
            return DraftGraph(folder / entry.graph, entry, capacity=capacity, threads=usable_cores())

        open_graph(2)
        return open_graph

    def measure(self, open_graph: OpenGraph) -> tuple[RowInvariance, Agreement]:
        """Its distributions over the draft vocabulary, the text fed in forwards of several sizes."""
        by_size = [self._drafted(open_graph, rows) for rows in ROWS_AT_EXPORT]
        largest = max(float(np.abs(by_size[0] - other).max()) for other in by_size[1:])
        invariance = RowInvariance(
            rows=ROWS_AT_EXPORT, num_tokens=len(self._tokens) - 1, identical=largest == 0, largest_difference=largest
        )
        return invariance, replace(divergence(by_size[-1], self._reference), compared_with="head")

    def forwards(self, open_graph: OpenGraph) -> RunForward:
        """With as many kept tokens as leave room."""
        num_past = min(NUM_PAST, self._max_context - ROWS[-1])
        return drafter_forwards(open_graph(num_past + ROWS[-1]), num_past)

    def _drafted(self, open_graph: OpenGraph, rows: int) -> FloatArray:
        """Log-probabilities (T - 1, Vd) behind the target's features, by token id, `rows` rows a forward."""
        number, width = len(self._tokens) - 1, len(self._draft_token_ids)
        model, found = open_graph(number), np.empty((number, width), dtype=np.float32)
        for start in range(0, number, rows):
            end = min(start + rows, number)
            passed = model.forward(
                self._features[start:end],
                self._tokens[start + 1 : end + 1],
                np.arange(start, end),
                num_scored=end - start,
                num_candidates=width,
            )
            order = passed.candidate_ids.argsort(axis=-1)
            found[start:end] = np.take_along_axis(passed.log_probabilities, order, axis=-1)
            model.cache.keep(range(end - start))
        return found


def _recipe(graph: str, entry: TargetEntry | DrafterEntry) -> Recipe:
    if not entry.passes:
        raise InputError(f"the manifest must name the passes of the {graph}, got none; export the bundle again")
    return Recipe(entry.precision, tuple(map(Step.parse, entry.passes)))
