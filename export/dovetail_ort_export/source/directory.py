"""A Hugging Face directory as a `Checkpoint`: its settings and text files read, its weights found but not read."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from dovetail_ort_export.source.checkpoint import Checkpoint
from dovetail_ort_export.source.diagnosis import refuse_configuration, refuse_files
from dovetail_ort_export.source.json_file import read_json
from dovetail_ort_export.source.quantised import refuse_quantised
from dovetail_ort_export.source.text_files import read_text_files
from dovetail_ort_export.source.weight_files import read_tensors

_HASH: Final = re.compile(r"[0-9a-f]{32,}")
_LICENCE: Final = re.compile(r"license:\s*(?P<value>[^#]*?)\s*(#.*)?")


def read_directory(path: Path, name: str | None = None, revision: str | None = None) -> Checkpoint:
    """Read a directory's settings and text files, and find its weights.

    Args:
        path: the directory.
        name: name of the model. None takes the name of the hub's repository if the directory is a snapshot in the hub's
            cache, and the directory's own name otherwise.
        revision: commit of the repository; None takes that of the snapshot.

    Raises:
        SourceError: the directory holds no model that can be read; the message names the likeliest cause.
    """
    refuse_files(path)
    config = read_json(path / "config.json")
    refuse_configuration(config)
    tensors, notes = read_tensors(path)
    refuse_quantised(path, config, tensors)
    generation = read_json(path / "generation_config.json")
    own_name, snapshot = model_name(path)
    return Checkpoint(
        name=name or own_name,
        path=path,
        config=config,
        generation=generation,
        tensors=tensors,
        text=read_text_files(path, config, generation),
        licence=read_licence(path / "README.md"),
        revision=revision or snapshot,
        notes=notes,
    )


def model_name(path: Path) -> tuple[str, str | None]:
    """A model's name by its directory, and the commit if the directory is a snapshot of the hub's cache.

    Example: `.../models--Qwen--Qwen3-0.6B/snapshots/c1899de2...` is `Qwen/Qwen3-0.6B` at `c1899de2...`.
    """
    for place in (Path(os.path.abspath(path)), path.resolve()):  # noqa: PTH100  # links are followed second
        snapshots = place.parent
        repository = snapshots.parent.name
        if snapshots.name == "snapshots" and repository.startswith("models--"):
            return repository.removeprefix("models--").replace("--", "/", 1), place.name
    for part in reversed(path.resolve().parts[1:]):
        if _HASH.fullmatch(part) is None:
            return part, None
    return "model", None


def read_licence(readme: Path) -> str | None:
    """The licence in the front matter of a model card, in its own words, or None if there is none.

    Example: `apache-2.0` for a file that begins with the lines `---`, `license: apache-2.0` and `---`.
    """
    if not readme.is_file():
        return None
    lines = readme.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for index, line in enumerate(lines[1:], start=1):
        if line.strip() == "---":
            return None
        found = _LICENCE.fullmatch(line.rstrip())
        if found is not None:
            value = found["value"] or _listed(lines[index + 1 :])
            return value.strip("\"'[]") or None
    return None


def _listed(lines: list[str]) -> str:
    """The first item of a YAML list that begins with these lines."""
    first = lines[0].strip() if lines else ""
    return first.removeprefix("-").strip() if first.startswith("- ") else ""
