"""`dovetail-ort pull`: a bundle from the hub into the cache on this disk, where every command finds it by its name."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from dovetail_ort.cli.arguments import add_json, hub_name
from dovetail_ort.cli.bundle_lines import page
from dovetail_ort_export.hub_client import HubClient, RemoteModel
from dovetail_ort_runtime.bundle.bundle import LARGEST_TEXT_BYTES, Bundle, sha256
from dovetail_ort_runtime.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from dovetail_ort_runtime.errors import BundleError, InputError, split_advice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "HF_ENDPOINT names the hub, and HF_HUB_CACHE the directory of the cache. For gated and private models log in\n"
        "with `hf auth login`, or set HF_TOKEN.\n\n"
        "examples:\n  dovetail-ort pull me/smollm2\n  dovetail-ort pull me/smollm2@v1.0"
    )
    parser.add_argument(
        "name", metavar="OWNER/NAME[@REVISION]", help="name on the hub; REVISION is a branch, a tag or a commit"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    name = hub_name(arguments.name)
    # ONNX Runtime 1.31 reads no weights in the store that repositories share.
    os.environ.setdefault("HF_HUB_DISABLE_SHARED_BLOBS", "1")
    client = HubClient()
    model = client.look_up(name)
    manifest = _manifest(client, model)
    num_bytes = sum(entry.num_bytes for entry in manifest.files)
    print(f"fetching {len(manifest.files)} files, {num_bytes / 1e6:.1f} MB", file=sys.stderr)
    directory = client.download(model, [entry.path for entry in manifest.files])
    _verify(client, model, directory, manifest)
    client.remember(model)
    record = {"name": str(name), "revision": model.commit, "directory": str(directory), "num_bytes": num_bytes}
    print(json.dumps(record, indent=2) if arguments.json else _summary(record))
    return 0


def _manifest(client: HubClient, model: RemoteModel) -> Manifest:
    """The manifest on the hub, read before anything large is downloaded. All files that it names are there."""
    listed = model.files.get(MANIFEST_NAME)
    if listed is None:
        raise InputError(
            f"{model.name} is no bundle, because it has no {MANIFEST_NAME}; if it is a model for transformers, make a "
            f"bundle with: dovetail-ort export {model.name} OUT"
        )
    if listed.num_bytes > LARGEST_TEXT_BYTES:
        raise BundleError(
            f"{MANIFEST_NAME} of {model.name} must have {LARGEST_TEXT_BYTES} bytes at most, got {listed.num_bytes}; "
            "do not use this bundle"
        )
    directory = client.download(model, [MANIFEST_NAME], force=True)  # a damaged copy may be in the cache
    try:
        text = (directory / MANIFEST_NAME).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{MANIFEST_NAME} of {model.name} must be UTF-8, got: {error}; is this a bundle?") from error
    manifest = Manifest.from_json(text)
    for entry in manifest.files:
        found = model.files.get(entry.path)
        if found is None or found.num_bytes != entry.num_bytes:
            there = "no such file" if found is None else f"{found.num_bytes} bytes"
            raise BundleError(
                f"{model.name} must have {entry.path!r} with {entry.num_bytes} bytes, got {there}; tell its owner"
            )
    return manifest


def _verify(client: HubClient, model: RemoteModel, directory: Path, manifest: Manifest) -> None:
    """Accept a whole bundle. Files that are damaged in the cache are downloaded again, once."""
    damaged = [entry.path for entry in manifest.files if not _is_whole(directory, entry)]
    if damaged:
        print(f"fetching {', '.join(damaged)} again, because the cache had other contents", file=sys.stderr)
        client.download(model, damaged, force=True)
    try:
        Bundle(directory, "all")
    except BundleError as error:
        fault, _ = split_advice(error)
        raise BundleError(f"{model.name} is not a whole bundle: {fault}; tell its owner") from error


def _is_whole(directory: Path, entry: FileEntry) -> bool:
    path = directory / entry.path
    return path.is_file() and path.stat().st_size == entry.num_bytes and sha256(path) == entry.sha256


def _summary(record: dict[str, object]) -> str:
    return page(
        {
            "revision": str(record["revision"]),
            "bundle": str(record["directory"]),
            "next": f'dovetail-ort generate {record["name"]} "Why is the sky blue?"',
        }
    )
