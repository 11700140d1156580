"""New bundles from old ones: graph passes over a finished graph, and what they did to its outputs.

It knows no original model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.checking.agreement import LARGEST_MEAN_KL, measure_target
from dovetail_ort_export.laboratory.graphs import attached_drafter, check_tokens, graph_entry
from dovetail_ort_export.pipeline import make_pass, run_pass
from dovetail_ort_export.recipe import Step
from dovetail_ort_export.writing.bundle_output import (
    bundle_directory,
    check_output,
    clear_leftovers,
    copy_without,
    write_manifest,
)
from dovetail_ort_export.writing.drafter_writer import write_drafter
from dovetail_ort_export.writing.graph_file import load_graph, save_graph
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry, TargetEntry, with_paths_beside
from dovetail_ort_runtime.bundle.graph_names import DRAFTER
from dovetail_ort_runtime.bundle.manifest import Manifest
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError, one_line
from dovetail_ort_runtime.machine.processor import usable_cores

_CHECKED_TOKENS: Final = 256
_DRAFTED_ROWS: Final = 32
_LEAST_SAME_DRAFTS: Final = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class AppliedPasses:
    """A bundle whose graph was changed by graph passes.

    Attributes:
        directory: directory of the new bundle.
        manifest: manifest of the new bundle. If the graph is a target, its measurements compare the new graph with the
            old one.
        keeps_parity: whether the new graph gives the results of the old one. For a target, the mean KL divergence is at
            most `LARGEST_MEAN_KL`; for a drafter, at least nine rows of ten have the same first candidate.
        draft_agreement: share of rows for which a drafter has the same first candidate as before; None for a target.
    """

    directory: Path
    manifest: Manifest
    keeps_parity: bool
    draft_agreement: float | None = None


def apply_passes(bundle_path: Path, passes: Sequence[str], out: Path, *, graph: str, force: bool) -> AppliedPasses:
    """Run graph passes over a bundle's graph, compare the outputs, and write a bundle that has the new graph.

    A new target is exact only if it is batch-invariant and keeps parity.

    Args:
        bundle_path: directory of the bundle.
        passes: names of graph passes or `module:Class`, in order.
        out: directory of the new bundle, which appears when everything has succeeded.
        graph: `target` or `drafter`.
        force: whether the new bundle may replace one that is at `out`.

    Raises:
        InputError: a pass is unknown, cannot be imported, needs the original model, changes nothing, or leaves a graph
            with a cycle; the bundle has no drafter, or the drafter reads levels of the target that is to change; or
            `out` holds something that would be lost.
        BundleError: a file of the bundle is damaged, ONNX Runtime or `check_graph` refuses the new graph, or its inputs
            and outputs are no longer the bundle's.
    """
    clear_leftovers(out)
    check_output(out, force=force)
    bundle = Bundle(bundle_path, "all")  # copied files get new checksums
    entry = graph_entry(bundle, graph)
    if isinstance(entry, TargetEntry):
        _refuse_taps(bundle)
    path = bundle.path(entry.graph)
    changed = _changed(load_graph(path), passes)
    with bundle_directory(out) as directory:
        new = directory / entry.graph
        if isinstance(entry, DrafterEntry):
            rewritten = with_paths_beside(entry.graph, entry.chain_graph)
            kept = copy_without(bundle, rewritten, directory)
            write_drafter(changed, directory, entry)
        else:
            kept = copy_without(bundle, (entry.graph,), directory)
            save_graph(changed, new)
        measure = _measure_drafter if graph == DRAFTER else _measure_target
        measured = measure(bundle, path, new, tuple(passes))
        manifest = write_manifest(measured.manifest, directory, kept)
    return AppliedPasses(
        directory=out,
        manifest=manifest,
        keeps_parity=measured.keeps_parity,
        draft_agreement=measured.draft_agreement,
    )


def _refuse_taps(bundle: Bundle) -> None:
    """A tapped graph is the target's graph with one more output, and would no longer be."""
    drafter = bundle.manifest.drafter
    if drafter is not None and drafter.taps is not None:
        raise InputError(
            "The bundle's head reads levels of this graph; take it out first with: dovetail-ort attach BUNDLE --none"
        )


def _changed(model: ir.Model, passes: Sequence[str]) -> ir.Model:
    """The model after all passes, each of which changes something."""
    for name in passes:
        result = run_pass(model, name, make_pass(Step(name)))
        if not result.modified:
            raise InputError(f"the pass {name} must find something to change, got a graph without its pattern")
        model = result.model
    try:
        model.graph.sort()
    except ValueError as error:
        raise InputError(f"the passes {', '.join(passes)} leave a graph with a cycle: {one_line(error)}") from error
    return model


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measured:
    """A new graph beside the old one.

    Attributes:
        manifest: manifest of the new bundle, but for its files.
        keeps_parity: as in `AppliedPasses`.
        draft_agreement: as in `AppliedPasses`.
    """

    manifest: Manifest
    keeps_parity: bool
    draft_agreement: float | None


def _measure_target(bundle: Bundle, old: Path, new: Path, passes: tuple[str, ...]) -> _Measured:
    manifest = bundle.manifest
    token_ids = check_tokens(bundle, _CHECKED_TOKENS)
    entry = replace(manifest.target, portable_graph=None)  # it must never run instead of the graph that was changed
    before = Target(old, entry, max_context=len(token_ids) + 1)
    after = Target(new, entry, max_context=len(token_ids) + 1)
    measurements = measure_target(after, token_ids, before.read(token_ids).logits)
    agreement = replace(measurements.agreement, compared_with="graph")
    keeps_parity = agreement.mean_kl <= LARGEST_MEAN_KL  # NaN does not
    is_exact = keeps_parity and measurements.row_invariance.identical
    manifest = replace(
        manifest,
        target=replace(manifest.target, passes=manifest.target.passes + passes, exact=is_exact),
        measurements=replace(measurements, agreement=agreement),
    )
    return _Measured(manifest=manifest, keeps_parity=keeps_parity, draft_agreement=None)


def _measure_drafter(bundle: Bundle, old: Path, new: Path, passes: tuple[str, ...]) -> _Measured:
    entry = attached_drafter(bundle)
    is_same = _first_candidates(old, entry) == _first_candidates(new, entry)
    share = float(is_same.mean())
    manifest = replace(bundle.manifest, drafter=replace(entry, passes=entry.passes + passes))
    return _Measured(manifest=manifest, keeps_parity=share >= _LEAST_SAME_DRAFTS, draft_agreement=share)


def _first_candidates(path: Path, entry: DrafterEntry) -> TokenArray:
    """(n, 1) int64, what a drafter ranks first after random features, which are the same for every graph."""
    generator = np.random.default_rng(0)
    model = DraftGraph(path, entry, capacity=_DRAFTED_ROWS, threads=usable_cores())
    drafted = model.forward(
        generator.standard_normal((_DRAFTED_ROWS, entry.hidden_size), dtype=np.float32),
        np.arange(_DRAFTED_ROWS),
        np.arange(_DRAFTED_ROWS),
        num_scored=_DRAFTED_ROWS,
        num_candidates=1,
    )
    return drafted.candidate_ids
