"""Read a model's files, or refuse them.

    directory, GGUF file or hub name -> Checkpoint -> Settings -> a transformers model on the files' own tensors

Nothing is guessed: every setting and every tensor is used, known to be unneeded, or an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import transformers
from packaging.version import Version

from dovetail_ort_export.source.causal_lm import CausalLM
from dovetail_ort_export.source.checkpoint import Checkpoint, TextParts
from dovetail_ort_export.source.directory import read_directory
from dovetail_ort_export.source.gguf_checkpoint import read_gguf
from dovetail_ort_export.source.model import build_model
from dovetail_ort_export.source.settings import Settings, read_settings
from dovetail_ort_runtime.bundle.manifest import Manifest

__all__ = ["Checkpoint", "Settings", "Source", "SourceOptions", "TextParts", "load_source"]

_NEWEST_TESTED: Final = Version("5.24.0")  # of transformers


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        max_context: largest number of tokens of prompt and answer; the model's own maximum if None.
        ignore_settings: keys of the configuration that export ignores although it does not know them.
        ignore_weights: patterns for names of tensors that export ignores although the model has no use for them.
    """

    max_context: int | None = None
    ignore_settings: tuple[str, ...] = ()
    ignore_weights: tuple[str, ...] = ()

    @classmethod
    def of_bundle(cls, manifest: Manifest) -> Self:
        """The options that a bundle was exported with."""
        return cls(
            max_context=manifest.target.max_context,
            ignore_settings=manifest.provenance.ignored_settings,
            ignore_weights=manifest.provenance.ignored_weights,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """A loaded model.

    Attributes:
        checkpoint: the model's files.
        settings: the settings of its configuration, all of which are understood.
        model: transformers causal LM in evaluation mode, in the number type of the files.
        ignored_weights: names of tensors that were ignored because the user asked for it.
        notes: remarks that the user should read, a line each.
    """

    checkpoint: Checkpoint
    settings: Settings
    model: CausalLM
    ignored_weights: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.checkpoint.name

    @property
    def text(self) -> TextParts:
        """How the model's text becomes token ids."""
        return self.checkpoint.text


def load_source(source: str, options: SourceOptions | None = None) -> Source:
    """Load a model.

    Args:
        source: a directory, a `.gguf` file, or a repository of the hub, `owner/name` or `owner/name@revision`.
        options: how it is read; the defaults if None.

    Raises:
        SourceError: there is no such model, it is damaged, or export does not know a part of it.
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
    """Read the settings of a source, and the names and shapes of its tensors, but no weights.

    Args:
        source: a directory, a `.gguf` file, or a repository of the hub, `owner/name` or `owner/name@revision`.

    Raises:
        SourceError: there is no such model, or its files are damaged or of a kind that is not covered.
    """
    path = Path(source)
    if path.suffix.lower() == ".gguf":
        return read_gguf(path)
    is_no_hub_name = path.is_absolute() or source.startswith((".", "~"))
    if path.exists() or is_no_hub_name:
        return read_directory(path)
    from dovetail_ort_export.source.hub import fetch  # the hub's client loads slowly

    fetched = fetch(source)
    checkpoint = read_directory(fetched.directory, source.partition("@")[0], fetched.revision)
    return replace(checkpoint, notes=(*fetched.notes, *checkpoint.notes))


def _version_notes() -> tuple[str, ...]:
    """A note if transformers is newer than the newest tested release."""
    version = Version(transformers.__version__)
    if version <= _NEWEST_TESTED:
        return ()
    return (f"transformers {version} is newer than {_NEWEST_TESTED}, the newest that was tested",)


@contextmanager
def _quiet_configurations() -> Iterator[None]:
    """Silence transformers' messages about settings and tensors: this package checks all of them itself."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
