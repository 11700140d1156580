"""Give a bundle a drafter: a trained head becomes a graph beside the target's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from dovetail_ort_export.drafter_graph import drafter_graph, drafter_recipe
from dovetail_ort_export.export_options import DRAFTER_PRECISIONS
from dovetail_ort_export.graph_file import graph_name, save_graph
from dovetail_ort_export.recipe import Recipe, read_recipe
from dovetail_ort_export.target_ends import read_target_ends
from dovetail_ort_export.training.draft_head import DraftHead
from dovetail_ort_export.training.head_directory import HeadRecord, load_head
from dovetail_ort_export.whole_output import bundle_directory, clear_leftovers, copy_without, write_manifest
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.draft_model import DraftModel
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.manifest import DrafterEntry, Manifest

_MAX_ROWS: Final = 64


def attach_drafter(
    bundle_path: str | Path,
    head_path: Path,
    precision: str = "int8",
    report: Callable[[str], None] = lambda _: None,
    *,
    recipe: Path | None = None,
) -> Manifest:
    """Export a head and put it into a bundle, in the place of the drafter that was there.

    Args:
        bundle_path: the bundle; it is replaced as a whole or not at all.
        head_path: directory that training wrote.
        precision: one of `DRAFTER_PRECISIONS`.
        report: is told each step in a line.
        recipe: TOML file with the passes that make the graph, in the place of the precision.

    Returns:
        The bundle's new manifest.

    Raises:
        InputError: the head is damaged, or belongs to another target.
        BundleError: a file of the bundle is damaged.
    """
    if precision not in DRAFTER_PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(DRAFTER_PRECISIONS)}, got {precision!r}")
    steps = drafter_recipe(precision) if recipe is None else read_recipe(recipe)
    clear_leftovers(Path(bundle_path))
    bundle = Bundle(bundle_path, "all")  # what is copied gets new checksums
    manifest = bundle.manifest
    head, draft_token_ids, record = load_head(head_path)
    if record.target_sha256 != manifest.target.weights_sha256:
        raise InputError(
            f"the head must be of the bundle's target, got one of {record.target_sha256[:12]}… for "
            f"{(manifest.target.weights_sha256 or 'an unknown one')[:12]}…; train one with: dovetail-ort train"
        )
    entry = drafter_entry(head, draft_token_ids, record, graph_name("drafter", steps.precision), steps)
    with bundle_directory(bundle.directory) as directory:
        copy_without(bundle, None if manifest.drafter is None else manifest.drafter.graph, directory)
        report("reading embedding and head of the target")
        ends = read_target_ends(bundle)
        report("writing the drafter")
        save_graph(drafter_graph(head, ends, draft_token_ids, steps), directory / entry.graph)
        DraftModel(directory / entry.graph, entry, capacity=2, threads=1)  # it loads, and has the stated dimensions
        return write_manifest(replace(manifest, drafter=entry), directory)


def drafter_entry(
    head: DraftHead, draft_token_ids: TokenArray, record: HeadRecord, graph: str, recipe: Recipe
) -> DrafterEntry:
    """What a manifest says of a head's graph."""
    return DrafterEntry(
        graph=graph,
        precision=recipe.precision,
        passes=recipe.describe(),
        fusion=record.config.fusion,
        target_sha256=record.target_sha256,
        num_layers=record.config.num_blocks,
        num_kv_heads=record.config.num_kv_heads,
        head_size=record.config.head_size,
        hidden_size=record.config.hidden_size,
        draft_vocabulary_size=len(draft_token_ids),
        num_parameters=sum(parameter.numel() for parameter in head.parameters()),
        max_rows=_MAX_ROWS,
    )
