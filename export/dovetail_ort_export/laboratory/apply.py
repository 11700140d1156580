"""New bundles from old ones: passes over a finished graph, and what they did to its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.checking.agreement import LARGEST_MEAN_KL, measure_target
from dovetail_ort_export.laboratory.graphs import DRAFTER, attached_drafter, check_tokens, graph_entry
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
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry
from dovetail_ort_runtime.bundle.manifest import Manifest
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.row_invariance import run_in_chunks
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.machine.processor import usable_cores

_CHECKED_TOKENS: Final = 256
_DRAFTED_ROWS: Final = 32
_SAME_DRAFTS: Final = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class AppliedPasses:
    """What came of it.

    Attributes:
        directory: the new bundle.
        manifest: of it; of a target, its measurements are of the new graph against the old one.
        keeps_parity: whether the new graph says what the old one said: of a target, mean KL divergence within
            `LARGEST_MEAN_KL`; of a drafter, the same first candidate for nine rows of ten.
        draft_agreement: of a drafter, the share of rows with the same first candidate; of a target None.
    """

    directory: Path
    manifest: Manifest
    keeps_parity: bool
    draft_agreement: float | None = None


def apply_passes(bundle_path: Path, passes: Sequence[str], out: Path, *, graph: str, force: bool) -> AppliedPasses:
    """Run passes over a bundle's graph, compare the outputs, and write the bundle that has the new graph.

    `passes` are names or `module:Class`, in order; `out` appears when everything has succeeded, and with `force` in the
    place of the bundle that stands there. A target is exact only if its rows stand alone and it keeps parity.

    Raises:
        InputError: a pass is unknown, cannot be imported, needs the original model, changes nothing, or leaves a graph
            with a cycle; or `out` holds something that would be lost.
        BundleError: a file of the bundle is damaged, ONNX Runtime or `check_graph` refuses the new graph, or its inputs
            and outputs are no longer the bundle's.
    """
    clear_leftovers(out)
    check_output(out, force=force)
    bundle = Bundle(bundle_path, "all")  # what is copied gets new checksums
    entry = graph_entry(bundle, graph)
    path = bundle.path(entry.graph)
    changed = _changed(load_graph(path), passes)
    with bundle_directory(out) as directory:
        new = directory / entry.graph
        if isinstance(entry, DrafterEntry):
            copy_without(bundle, entry.graphs, directory)
            write_drafter(changed, directory, entry)
        else:
            copy_without(bundle, (entry.graph,), directory)
            save_graph(changed, new)
        measure = _measured_drafter if graph == DRAFTER else _measured_target
        manifest, keeps_parity, same = measure(bundle, path, new, tuple(passes))
        manifest = write_manifest(manifest, directory)
    return AppliedPasses(directory=out, manifest=manifest, keeps_parity=keeps_parity, draft_agreement=same)


def _changed(model: ir.Model, passes: Sequence[str]) -> ir.Model:
    for name in passes:
        result = run_pass(model, name, make_pass(Step(name)))
        if not result.modified:
            raise InputError(f"the pass {name} must find something to change, got a graph without its pattern")
        model = result.model
    try:
        model.graph.sort()
    except ValueError as error:
        raise InputError(f"the passes {', '.join(passes)} must leave a graph without cycles, got: {error}") from error
    return model


def _measured_target(bundle: Bundle, old: Path, new: Path, passes: tuple[str, ...]) -> tuple[Manifest, bool, None]:
    manifest, tokens = bundle.manifest, check_tokens(bundle, _CHECKED_TOKENS)
    measured_entry = replace(manifest.target, portable_graph=None)  # never in the place of the one that was changed
    before, after = (Target(path, measured_entry, max_context=len(tokens) + 1) for path in (old, new))
    reference, _ = run_in_chunks(before, tokens, before.max_rows)
    measured = measure_target(after, tokens, reference)
    agreement = replace(measured.agreement, compared_with="graph")
    keeps_parity = agreement.mean_kl <= LARGEST_MEAN_KL  # NaN is not
    exact = keeps_parity and measured.row_invariance.identical
    target = replace(manifest.target, passes=manifest.target.passes + passes, exact=exact)
    manifest = replace(manifest, target=target, measurements=replace(measured, agreement=agreement))
    return manifest, keeps_parity, None


def _measured_drafter(bundle: Bundle, old: Path, new: Path, passes: tuple[str, ...]) -> tuple[Manifest, bool, float]:
    entry = attached_drafter(bundle)
    same = float((_first_candidates(old, entry) == _first_candidates(new, entry)).mean())
    manifest = replace(bundle.manifest, drafter=replace(entry, passes=entry.passes + passes))
    return manifest, same >= _SAME_DRAFTS, same


def _first_candidates(path: Path, entry: DrafterEntry) -> TokenArray:
    """What a drafter ranks first behind random features, the same for every graph."""
    generator = np.random.default_rng(0)
    model = DraftGraph(path, entry, capacity=_DRAFTED_ROWS, threads=usable_cores())
    rows = model.forward(
        generator.standard_normal((_DRAFTED_ROWS, entry.hidden_size), dtype=np.float32),
        np.arange(_DRAFTED_ROWS),
        np.arange(_DRAFTED_ROWS),
        num_scored=_DRAFTED_ROWS,
        num_candidates=1,
    )
    return rows.candidate_ids
