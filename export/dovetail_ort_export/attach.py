"""The plan of attaching a drafter: read the head, copy the bundle, write the draft graph, publish."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from dovetail_ort_export.options import AUTO_PRECISION, DRAFTER_PRECISIONS, Report
from dovetail_ort_export.recipe import read_recipe
from dovetail_ort_export.training.head_files import load_head
from dovetail_ort_export.writing.bundle_output import bundle_directory, clear_leftovers, copy_without, write_manifest
from dovetail_ort_export.writing.drafter_writer import drafter_entry, drafter_graph, drafter_recipe, write_drafter
from dovetail_ort_export.writing.graph_file import graph_name
from dovetail_ort_export.writing.target_ends import read_target_ends
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.hub_cache import Snapshot
from dovetail_ort_runtime.bundle.manifest import Manifest
from dovetail_ort_runtime.checks import must_be_one_of
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.errors import InputError


def attach_drafter(
    bundle_path: str | Path,
    head_path: Path,
    precision: str = AUTO_PRECISION,
    report: Report = lambda _: None,
    *,
    recipe: Path | None = None,
) -> Manifest:
    """Export a head and put it into a bundle, instead of any drafter that was there.

    Args:
        bundle_path: bundle to change; it is replaced as a whole or not at all.
        head_path: directory of the head that `train_head` wrote.
        precision: number format of the weights, one of `DRAFTER_PRECISIONS`; `auto` is int4 in a native bundle, else
            int8.
        report: function that is called with one line of text for each step.
        recipe: TOML file with the list of graph passes that make the graph, instead of the precision; None without one.

    Returns:
        The new manifest.

    Raises:
        InputError: the head is damaged, or belongs to another target; or the bundle lies in the hub's cache.
        BundleError: a file of the bundle is damaged.
    """
    must_be_one_of("precision", precision, DRAFTER_PRECISIONS)
    clear_leftovers(Path(bundle_path))
    bundle = Bundle(bundle_path, "all")  # copied files get new checksums
    _refuse_hub_cache(bundle)
    manifest = bundle.manifest
    steps = drafter_recipe(precision, manifest.target.format) if recipe is None else read_recipe(recipe)
    trained = load_head(head_path, manifest.target)
    head = trained.head
    draft_token_ids = trained.draft_token_ids
    graph = graph_name("drafter", steps.precision, steps.format)
    entry = drafter_entry(head, draft_token_ids, trained.record.target_sha256, graph, steps)
    with bundle_directory(bundle.directory) as directory:
        former_graphs = () if manifest.drafter is None else manifest.drafter.graphs
        copy_without(bundle, former_graphs, directory)
        report("reading embedding and head of the target")
        ends = read_target_ends(bundle)
        report("writing the drafter")
        write_drafter(drafter_graph(head, ends, draft_token_ids, steps), directory, entry)
        DraftGraph(directory / entry.graph, entry, capacity=2, threads=1)  # it loads, with these dimensions
        return write_manifest(replace(manifest, drafter=entry), directory)


def _refuse_hub_cache(bundle: Bundle) -> None:
    if Snapshot.around(bundle.directory) is not None:
        raise InputError(
            f"{str(bundle.directory)!r} is in the hub's cache, where a bundle must stay as it is; attach to a copy of "
            f"it, made with: cp -rL {shlex.quote(str(bundle.directory))} bundle"
        )
