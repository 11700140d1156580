"""`dovetail-ort push`: a bundle to the hub, checked before it is sent and compared with what arrived."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from dovetail_ort.cli.arguments import add_bundle, add_json, hub_name
from dovetail_ort.cli.bundle_lines import page
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
        "The repository is created if it does not exist. Log in with `hf auth login`, or set HF_TOKEN.\n\n"
        "examples:\n  dovetail-ort push smollm2 me/smollm2\n  dovetail-ort push smollm2 me/smollm2 --public"
    )
    add_bundle(parser)
    parser.add_argument("name", metavar="OWNER/NAME", help="repository on the hub")
    parser.add_argument("--public", action="store_true", help="let everybody see the repository (default: private)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    name = hub_name(arguments.name)
    if name.revision is not None:
        raise InputError(f"a bundle is pushed to owner/name without a revision; leave out @{name.revision}")
    client = HubClient()
    if not client.has_token:
        raise UnavailableError("push needs a token of the hub; log in with `hf auth login`, or set HF_TOKEN")
    print("hashing every file", file=sys.stderr)
    bundle = Bundle(arguments.bundle, "all")
    _check_alone(bundle)
    model = _repository(client, name, public=arguments.public)
    deletions, has_own_card = _look_at_old_files(client, model, bundle.manifest)
    additions: dict[str, Path | bytes] = {
        path: bundle.path(path) for path in (MANIFEST_NAME, *(entry.path for entry in bundle.manifest.files))
    }
    if has_own_card:
        print(f"{CARD_NAME} of {name} was not written by push, so it stays as it is", file=sys.stderr)
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
    """Refuse a directory with files that the manifest does not name: they may not be meant for others."""
    known = {MANIFEST_NAME, *_OF_THE_HUB, *(entry.path for entry in bundle.manifest.files)}
    there = (path.relative_to(bundle.directory) for path in sorted(bundle.directory.rglob("*")) if not path.is_dir())
    stray = [path.as_posix() for path in there if path.as_posix() not in known]
    if stray:
        raise InputError(
            f"the bundle has files that its manifest does not name: {', '.join(stray[:3])}; "
            "remove what does not belong to it"
        )


def _repository(client: HubClient, name: HubName, *, public: bool) -> RemoteModel:
    """The repository, created if it does not exist. It is never visible to more people than was asked for."""
    model = client.find(name)
    if model is None:
        client.create(name, private=not public)
        model = client.look_up(name)
    if model.private == public:
        settings = f"{client.endpoint}/{name}/settings"
        if model.private:
            raise InputError(f"{name} is a private repository; leave out --public, or change it at {settings}")
        raise InputError(f"{name} is a public repository; pass --public, or change it at {settings}")
    return model


def _look_at_old_files(client: HubClient, model: RemoteModel, manifest: Manifest) -> tuple[list[str], bool]:
    """Files of the old bundle that the new one does not have, and whether a person wrote the model card.

    Raises:
        InputError: the repository holds something other than a bundle.
    """
    others = sorted(model.files.keys() - _OF_THE_HUB)
    if others and MANIFEST_NAME not in others:
        raise InputError(
            f"{model.name} holds something other than a bundle: {', '.join(others[:3])}; choose another name"
        )
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
    """Accept a commit that has every file of the bundle with its size and checksum."""
    for entry in bundle.manifest.files:
        found = model.files.get(entry.path)
        if found is None or found.num_bytes != entry.num_bytes or found.sha256 not in (None, entry.sha256):
            raise BundleError(f"{entry.path!r} did not arrive at {model.name} as it was sent; push again")
    if MANIFEST_NAME not in model.files:
        raise BundleError(f"{MANIFEST_NAME} did not arrive at {model.name}; push again")
