"""`dovetail-ort push`: a bundle to the hub, checked before the first byte goes and compared with what arrived."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dovetail_ort.cli.arguments import add_bundle
from dovetail_ort.cli.bundle_lines import page
from dovetail_ort.commands import add_json
from dovetail_ort.commands.pull import hub_name
from dovetail_ort.model_card import CARD_MARK, model_card
from dovetail_ort_export.hub_client import HubClient, RemoteModel
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.hub_cache import HubName
from dovetail_ort_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from dovetail_ort_runtime.errors import BundleError, InputError, UnavailableError

CARD_NAME: Final = "README.md"
# The hub's own files, which lie in a repository beside those of a bundle, and in a directory that was downloaded.
_OF_THE_HUB: Final = {CARD_NAME, ".gitattributes"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The repository is made if it is not there. Log in with `hf auth login` or set HF_TOKEN.\n\n"
        "examples:\n  dovetail-ort push smollm2 me/smollm2\n  dovetail-ort push smollm2 me/smollm2 --public"
    )
    add_bundle(parser)
    parser.add_argument("name", metavar="OWNER/NAME", help="repository on the hub")
    parser.add_argument("--public", action="store_true", help="for everybody to see (default: private)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    name = hub_name(arguments.name)
    if name.revision is not None:
        raise InputError(f"a bundle must be pushed to owner/name, got the revision {name.revision!r} too; leave it out")
    client = HubClient()
    if not client.has_token:
        raise UnavailableError("push must know who you are, got no token; log in with `hf auth login` or set HF_TOKEN")
    print("hashing every file", file=sys.stderr)
    bundle = Bundle(arguments.bundle, "all")
    _check_alone(bundle)
    model = _repository(client, name, public=arguments.public)
    deletions, has_own_card = _look_at_old_files(client, model, bundle.manifest)
    additions: dict[str, Path | bytes] = {
        path: bundle.path(path) for path in (MANIFEST_NAME, *(entry.path for entry in bundle.manifest.files))
    }
    if has_own_card:
        print(f"{CARD_NAME} of {name} was written by somebody and stays", file=sys.stderr)
    else:
        additions[CARD_NAME] = model_card(bundle.manifest, name).encode()
    print(f"sending {len(additions)} files", file=sys.stderr)
    commit = client.commit(model, additions, deletions, "Bundle of dovetail-ort")
    _check_arrived(client.look_up(HubName(repository=name.repository, revision=commit)), bundle)
    record = {
        "repository": f"{client.endpoint}/{name}",
        "visibility": "private" if model.private else "public",
        "commit": commit,
    }
    print(json.dumps(record, indent=2) if arguments.json else page(record))
    return 0


def _check_alone(bundle: Bundle) -> None:
    """Refuse a directory with files that the manifest does not know: they may not be meant for others."""
    known = {MANIFEST_NAME, *_OF_THE_HUB, *(entry.path for entry in bundle.manifest.files)}
    there = (path.relative_to(bundle.directory) for path in sorted(bundle.directory.rglob("*")) if not path.is_dir())
    stray = [path.as_posix() for path in there if path.as_posix() not in known]
    if stray:
        raise InputError(
            f"a bundle that is pushed must hold the files of its manifest alone, got {', '.join(stray[:3])}; "
            "remove what does not belong to it"
        )


def _repository(client: HubClient, name: HubName, *, public: bool) -> RemoteModel:
    """The repository as it was asked for: made if it is not there, and never shown to more people than asked."""
    model = client.find(name)
    if model is None:
        client.create(name, private=not public)
        model = client.look_up(name)
    if model.private == public:
        found, asked = ("private", "public") if model.private else ("public", "private")
        way = "leave out --public" if model.private else "pass --public"
        settings = f"{client.endpoint}/{name}/settings"
        raise InputError(f"{name} must be {asked}, got a {found} repository; {way}, or change it at {settings}")
    return model


def _look_at_old_files(client: HubClient, model: RemoteModel, manifest: Manifest) -> tuple[list[str], bool]:
    """Files of the bundle that is replaced and that the new one lacks; whether the card is somebody's own.

    Raises:
        InputError: the repository holds something else than a bundle.
    """
    others = sorted(model.files.keys() - _OF_THE_HUB)
    if others and MANIFEST_NAME not in others:
        raise InputError(f"{model.name} must be new or hold a bundle, got {', '.join(others[:3])}; choose another name")
    wanted = [name for name in (MANIFEST_NAME, CARD_NAME) if name in model.files]
    if not wanted:
        return [], False
    directory = client.download(model, wanted)
    has_own_card = CARD_NAME in wanted and CARD_MARK not in _text(directory / CARD_NAME)
    if MANIFEST_NAME not in wanted:
        return [], has_own_card
    old = Manifest.from_json(_text(directory / MANIFEST_NAME))
    kept = {entry.path for entry in manifest.files}
    return [entry.path for entry in old.files if entry.path in model.files and entry.path not in kept], has_own_card


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _check_arrived(model: RemoteModel, bundle: Bundle) -> None:
    """Accept a commit that has every file of the bundle as it is here."""
    files: Mapping[str, tuple[int, str]] = {
        entry.path: (entry.num_bytes, entry.sha256) for entry in bundle.manifest.files
    }
    for path, (num_bytes, sha256) in files.items():
        found = model.files.get(path)
        if found is None or found.num_bytes != num_bytes or found.sha256 not in (None, sha256):
            raise BundleError(
                f"{model.name} must have {path!r} as it was sent, got another content or none; push again"
            )
    if MANIFEST_NAME not in model.files:
        raise BundleError(f"{model.name} must have {MANIFEST_NAME}, which did not arrive; push again")
