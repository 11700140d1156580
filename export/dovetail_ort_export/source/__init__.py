"""A model's files, understood or refused.

    directory, GGUF file or hub name -> Checkpoint -> Settings -> a transformers model on the files' own tensors

Nothing is guessed: every setting and every tensor is used, known to be unneeded, or an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import transformers
from packaging.version import Version

from dovetail_ort_export.source.checkpoint import Checkpoint, TextParts
from dovetail_ort_export.source.directory import read_directory
from dovetail_ort_export.source.gguf_checkpoint import read_gguf
from dovetail_ort_export.source.model import build_model
from dovetail_ort_export.source.settings import Settings, read_settings
from dovetail_ort_runtime.bundle.manifest import Manifest
from dovetail_ort_runtime.errors import SourceError

__all__ = ["Checkpoint", "Settings", "Source", "SourceOptions", "TextParts", "load_source"]

_NEWEST_TESTED: Final = Version("5.24.0")  # of transformers


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        max_context: largest number of tokens of prompt and answer; the model's own maximum if None.
        ignore_settings: keys of the configuration that are passed over although nothing is known of them.
        ignore_weights: patterns of tensors in the files that have no place and are passed over.
    """

    max_context: int | None = None
    ignore_settings: tuple[str, ...] = ()
    ignore_weights: tuple[str, ...] = ()

    @classmethod
    def of_bundle(cls, manifest: Manifest) -> Self:
        """Those that a bundle was exported with."""
        return cls(
            max_context=manifest.target.max_context,
            ignore_settings=manifest.provenance.ignored_settings,
            ignore_weights=manifest.provenance.ignored_weights,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """A loaded model.

    Attributes:
        checkpoint: its files.
        settings: of its configuration, all understood.
        model: transformers causal LM, in evaluation mode, in the number type of its files.
        ignored_weights: tensors of the files that were passed over because the user said so.
        notes: what the user should know, a line each.
    """

    checkpoint: Checkpoint
    settings: Settings
    model: Any
    ignored_weights: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the model."""
        return self.checkpoint.name

    @property
    def text(self) -> TextParts:
        """How its text becomes token ids."""
        return self.checkpoint.text


def load_source(source: str, options: SourceOptions | None = None) -> Source:
    """Read a directory, a `.gguf` file or a hub repository `owner/name[@revision]`.

    Raises:
        SourceError: there is no such model, it is damaged, or something of it is not understood.
        InputError: an option is out of bounds.
    """
    options = options or SourceOptions()
    checkpoint = read_checkpoint(source)
    settings = read_settings(checkpoint.config, options.max_context, options.ignore_settings)
    with _quiet_configurations():
        model, unused = build_model(checkpoint, settings, options.ignore_weights)
    notes = (*checkpoint.notes, *checkpoint.text.notes, *unused.notes, *_version_notes())
    return Source(checkpoint=checkpoint, settings=settings, model=model, ignored_weights=unused.ignored, notes=notes)


def read_checkpoint(source: str) -> Checkpoint:
    """The files of a source, read as far as settings, names and shapes.

    Raises:
        SourceError: as `load_source`.
    """
    path = Path(source)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise SourceError(f"a GGUF source must be a file, got {source!r}, which is not there")
        return read_gguf(path)
    if path.exists():
        return read_directory(path)
    if path.is_absolute() or source.startswith((".", "~")):
        raise SourceError(
            f"a source must be a directory, a .gguf file or a hub name, got {source!r}, which is not there"
        )
    from dovetail_ort_export.source.hub import fetch  # the hub's client loads slowly

    fetched = fetch(source)
    checkpoint = read_directory(fetched.directory, source.partition("@")[0], fetched.revision)
    return replace(checkpoint, notes=(*fetched.notes, *checkpoint.notes))


def _version_notes() -> tuple[str, ...]:
    """A note where transformers is newer than any that was tested."""
    version = Version(transformers.__version__)
    if version <= _NEWEST_TESTED:
        return ()
    return (f"transformers {version} is newer than {_NEWEST_TESTED}, the newest that was tested",)


@contextmanager
def _quiet_configurations() -> Iterator[None]:
    """Silence transformers' remarks on settings and tensors, all of which are checked here."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
