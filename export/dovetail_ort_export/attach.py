"""The plan of attaching a drafter: read the head, link the bundle's files, write the draft graph, publish."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from dovetail_ort_export.heads.published import PublishedHead, is_published_head, read_published_head
from dovetail_ort_export.options import AUTO_PRECISION, DRAFTER_PRECISIONS, Report
from dovetail_ort_export.probing.probe import probe_head
from dovetail_ort_export.recipe import read_recipe
from dovetail_ort_export.training.head_files import RECORD_NAME, TrainedHead, load_head
from dovetail_ort_export.writing.bundle_output import (
    bundle_directory,
    clear_leftovers,
    link_other_files,
    link_without,
    write_manifest,
)
from dovetail_ort_export.writing.drafter_parts import DrafterParts, own_parts, published_parts
from dovetail_ort_export.writing.drafter_writer import drafter_entry, drafter_graph, drafter_recipe, write_drafter
from dovetail_ort_export.writing.graph_file import graph_name
from dovetail_ort_export.writing.shared_embedding import share_embedding
from dovetail_ort_export.writing.target_ends import TargetEnds, read_target_ends
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.formats import INT4, INT8
from dovetail_ort_runtime.bundle.graph_entries import AcceptanceRow, HeadOrigin, TapsEntry, TargetEntry
from dovetail_ort_runtime.bundle.graph_names import DRAFTER
from dovetail_ort_runtime.bundle.hub_cache import HubName, Snapshot
from dovetail_ort_runtime.bundle.manifest import Manifest
from dovetail_ort_runtime.checks import must_be_one_of
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.errors import InputError


def attach_drafter(
    bundle_path: str | Path,
    head_path: str | Path,
    precision: str = AUTO_PRECISION,
    report: Report = lambda _: None,
    *,
    recipe: Path | None = None,
    force: bool = False,
) -> Manifest:
    """Export a head and put it into a bundle, instead of any drafter that was there.

    A head that others have trained is measured first, on text that the target writes: how it is to be read, and what
    share of its tokens the target accepts.

    Args:
        bundle_path: bundle to change; it is replaced as a whole or not at all.
        head_path: directory of the head that `train_head` wrote, a published head's directory, or its name on the hub,
            `owner/name` or `owner/name@revision`.
        precision: number format of the weights, one of `DRAFTER_PRECISIONS`; `auto` is int4 in a native bundle, else
            int8.
        report: function that is called with one line of text for each step.
        recipe: TOML file with the list of graph passes that make the graph, instead of the precision; None without one.
        force: whether a published head is attached although hardly any of its tokens are accepted.

    Returns:
        The new manifest.

    Raises:
        InputError: the head is damaged, belongs to another target, or hardly any of its tokens are accepted; or the
            bundle lies in the hub's cache.
        SourceError: a published head is not understood whole, or the hub does not serve it.
        UnavailableError: the hub cannot be reached.
        BundleError: a file of the bundle is damaged.
    """
    must_be_one_of("precision", precision, DRAFTER_PRECISIONS)
    bundle = _bundle_to_change(bundle_path)
    manifest = bundle.manifest
    steps = drafter_recipe(precision, manifest.target.format) if recipe is None else read_recipe(recipe)
    head = _find_head(head_path, manifest.target, report)
    report("reading embedding and head of the target")
    ends = read_target_ends(bundle)
    with bundle_directory(bundle.directory) as directory:
        kept = link_without(bundle, _drafter_graphs(manifest), directory)
        measured = _measured(bundle, directory, head, ends, report, force=force)
        report("writing the drafter")
        graph = graph_name(DRAFTER, steps.precision, steps.format)
        entry = drafter_entry(measured.parts, str(manifest.target.weights_sha256), graph, steps)
        entry = replace(entry, taps=measured.taps, origin=measured.origin, acceptance=measured.acceptance)
        drafter = drafter_graph(measured.parts, steps)
        if measured.parts.has_target_embedding:
            share_embedding(drafter, entry, manifest.target, directory)
        write_drafter(drafter, directory, entry)
        DraftGraph(directory / entry.graph, entry, capacity=2, threads=1)  # it loads, with these dimensions
        manifest = write_manifest(replace(manifest, drafter=entry), directory, kept)
        link_other_files(bundle, directory)
    return manifest


def detach_drafter(bundle_path: str | Path) -> Manifest:
    """Take a bundle's own drafter out of it, which leaves the bundle as it was before the drafter was attached.

    Args:
        bundle_path: bundle to change; it is replaced as a whole or not at all.

    Returns:
        The new manifest.

    Raises:
        InputError: the bundle lies in the hub's cache.
        BundleError: a file of the bundle is damaged.
    """
    bundle = _bundle_to_change(bundle_path)
    manifest = bundle.manifest
    with bundle_directory(bundle.directory) as directory:
        kept = link_without(bundle, _drafter_graphs(manifest), directory)
        manifest = write_manifest(replace(manifest, drafter=None), directory, kept)
        link_other_files(bundle, directory)
    return manifest


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _MeasuredHead:
    """A head as it is to be written.

    Attributes:
        parts: network and ends.
        taps: graphs of the target that give its features; None if it reads hidden states.
        origin: where it comes from; None for a head that was trained here.
        acceptance: what was measured on the target's own text.
    """

    parts: DrafterParts
    taps: TapsEntry | None = None
    origin: HeadOrigin | None = None
    acceptance: tuple[AcceptanceRow, ...] = ()


def _find_head(head: str | Path, target: TargetEntry, report: Report) -> TrainedHead | PublishedHead:
    """The head in a directory, or on the hub, which fits the target as far as its files tell."""
    path = Path(head)
    if (path / RECORD_NAME).is_file():
        return load_head(path, target)
    if target.weights_sha256 is None:
        raise InputError("This bundle does not know its target's weights, so it takes no drafter; export it again.")
    found = _read_published(head, report)
    found.check_target(target)
    return found


def _read_published(head: str | Path, report: Report) -> PublishedHead:
    path = Path(head)
    if is_published_head(path):
        return read_published_head(path)
    name = HubName.parse(str(head))
    if path.exists() or name is None:
        raise InputError(
            f"a draft head must be a directory with a {RECORD_NAME} or a config.json, or a name on the hub such as "
            f"owner/name, got {str(head)!r}; make one with: dovetail-ort train BUNDLE HEAD"
        )
    from dovetail_ort_export.source.hub import fetch  # the hub's client loads slowly

    report(f"fetching {name}")
    fetched = fetch(str(name))
    for note in fetched.notes:
        report(note)
    return read_published_head(fetched.directory, name.repository, fetched.revision)


def _measured(
    bundle: Bundle,
    directory: Path,
    head: TrainedHead | PublishedHead,
    ends: TargetEnds,
    report: Report,
    *,
    force: bool,
) -> _MeasuredHead:
    """A head with what the probe found, if others have trained it."""
    if not isinstance(head, PublishedHead):
        return _MeasuredHead(parts=own_parts(head.head, ends, head.draft_token_ids))
    probe = probe_head(bundle, directory, head, ends, report, force=force)
    is_quantised = bundle.manifest.target.precision in (INT8, INT4)
    parts = published_parts(head, probe.reading, ends, is_quantised=is_quantised)
    return _MeasuredHead(parts=parts, taps=probe.taps, origin=head.origin, acceptance=probe.acceptance)


def _bundle_to_change(path: str | Path) -> Bundle:
    real = Path(os.path.realpath(path))  # a link to a bundle stays, and leads to the new one
    clear_leftovers(real)
    bundle = Bundle(real if real.is_dir() else path, "all")  # what is made of its weights gets checksums of its own
    if Snapshot.around(bundle.directory) is not None:
        raise InputError(
            f"{str(bundle.directory)!r} is in the hub's cache, where a bundle must stay as it is; attach to a copy of "
            f"it, made with: cp -rL {shlex.quote(str(bundle.directory))} bundle"
        )
    return bundle


def _drafter_graphs(manifest: Manifest) -> tuple[str, ...]:
    """Paths of the graphs that came with the drafter."""
    return () if manifest.drafter is None else manifest.drafter.graphs
