"""A model's files from the hub or from its cache: configuration, text files, one set of weights, and nothing else.

It does not read them.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from dovetail_ort_export.hub_client import HubClient, NoConnectionError, RemoteModel
from dovetail_ort_runtime.bundle.hub_cache import HubName, find_snapshot
from dovetail_ort_runtime.bundle.manifest import MANIFEST_NAME
from dovetail_ort_runtime.errors import BundleError, SourceError

_TEXT_SUFFIXES: Final = (".json", ".jinja", ".md")
# Files from which a tokenizer.json can be made; they are not needed if there is one.
_OLDER_TOKENIZERS: Final = (
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "tekken.json",
    "tiktoken.model",
    "spiece.model",
)
_LARGEST_TEXT_BYTES: Final = 256 << 20
# The first of these that the repository has is taken. Other files of weights hold the same in another form.
_WEIGHTS: Final = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A repository's files on this disk.

    Attributes:
        directory: directory of the files.
        revision: commit of the repository, 40 hexadecimal digits.
        notes: remarks that the user should read, a line each.
    """

    directory: Path
    revision: str
    notes: tuple[str, ...] = ()


def fetch(name: str) -> Fetched:
    """Fetch the files of a repository that export needs.

    Without a connection, or with HF_HUB_OFFLINE, the copy in the hub's cache is taken if it has all weights.

    Args:
        name: `owner/name` or `owner/name@revision`.

    Raises:
        SourceError: there is no such model or revision, this user may not read it, or weights are missing.
        UnavailableError: there is neither a connection nor a copy, or `huggingface_hub` is missing.
    """
    parsed = HubName.parse(name)
    if parsed is None:
        raise SourceError(
            f"a source must be a directory, a .gguf file or a hub name such as owner/name, got {name!r}, which is "
            "neither there nor such a name"
        )
    client = HubClient(SourceError)
    try:
        model = client.look_up(parsed)
    except NoConnectionError as error:
        return _cached(parsed, error)
    _refuse_other_kinds(model)
    directory = client.download(model, _text_files(model))
    client.download(model, _weight_files(parsed, directory, model.files))
    client.remember(model)
    return Fetched(directory=directory, revision=model.commit)


def _refuse_other_kinds(model: RemoteModel) -> None:
    """Refuse repositories that are no model directory by the names of their files, before anything is fetched."""
    names = sorted(model.files)
    if "config.json" not in names and MANIFEST_NAME in names and any(name.endswith(".onnx") for name in names):
        raise SourceError(f"{model.name} is a bundle already; fetch it with: dovetail-ort pull {model.name}")
    gguf = [name for name in names if name.lower().endswith(".gguf")]
    if gguf and not any(name in names for name in _WEIGHTS):
        raise SourceError(
            f"{model.name} has its weights in GGUF files alone; fetch one and give its path: "
            f"hf download {model.name.repository} {gguf[0]}"
        )


def _text_files(model: RemoteModel) -> list[str]:
    """Files at the top that are no weights. Folders such as `onnx/` and `original/` hold other copies of the model."""
    at_top = [name for name in model.files if len(PurePosixPath(name).parts) == 1]
    wanted = [name for name in at_top if name.endswith(_TEXT_SUFFIXES) and name not in _OLDER_TOKENIZERS]
    if "tokenizer.json" not in model.files:
        wanted += [name for name in at_top if name in _OLDER_TOKENIZERS]
    return [name for name in wanted if model.files[name].num_bytes <= _LARGEST_TEXT_BYTES]


def _weight_files(name: HubName, directory: Path, available: Collection[str]) -> list[str]:
    """The files of one set of weights; none if the repository has none, which the reader of the directory explains."""
    found = next((file for file in _WEIGHTS if file in available), None)
    if found is None:
        return []
    if not found.endswith(".index.json"):
        return [found]
    try:
        index = json.loads((directory / found).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{found} of {name} must name the files of its weights, got another content") from error
    missing = [file for file in files if file not in available]
    if missing:
        raise SourceError(
            f"{name} must have the {len(files)} files of its weights, got none of {', '.join(map(str, missing[:3]))}; "
            "is the upload complete, or is the whole model under another name?"
        )
    return files


def _cached(name: HubName, reason: NoConnectionError) -> Fetched:
    """The copy in the hub's cache, if it is whole."""
    try:
        directory = find_snapshot(name)
    except BundleError:
        raise NoConnectionError(f"{reason}; {name} is not in the cache either") from reason
    available = {path.name for path in directory.iterdir() if path.is_file()}  # not a link whose blob is gone
    try:
        weights = _weight_files(name, directory, available)
    except SourceError as error:
        raise NoConnectionError(f"{reason}; the copy in the cache lacks weights") from error
    if "config.json" not in available or not weights:
        raise NoConnectionError(f"{reason}; the copy in the cache lacks config.json or weights") from reason
    note = f"the hub was not asked for {name}: the copy in the cache is of {directory.name}"
    return Fetched(directory=directory, revision=directory.name, notes=(note,))
