"""From a publisher's directory to a head. It knows no target."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dovetail_ort_export.heads.published.published_head import PublishedHead
from dovetail_ort_export.heads.published.settings import read_settings
from dovetail_ort_export.heads.published.tensors import (
    OFFSETS,
    canonical,
    check_tensors,
    draft_vocabulary,
    read_values,
)
from dovetail_ort_export.source.diagnosis import refuse_pointers
from dovetail_ort_export.source.directory import model_name, read_licence
from dovetail_ort_export.source.json_file import read_json
from dovetail_ort_export.source.quantised import refuse_quantised
from dovetail_ort_export.source.weight_files import read_tensors
from dovetail_ort_runtime.bundle.graph_entries import HeadOrigin
from dovetail_ort_runtime.errors import SourceError

_CONFIG: Final = "config.json"
_FUSION: Final = "fc.weight"


def is_published_head(path: Path) -> bool:
    """Whether a directory looks like a published head: it has a `config.json`."""
    return (path / _CONFIG).is_file()


def read_published_head(path: Path, name: str | None = None, revision: str | None = None) -> PublishedHead:
    """Read a head that others have trained.

    Args:
        path: directory with `config.json` and weights as safetensors or as PyTorch files, in one or many parts.
        name: name of the head; by the directory if it is None.
        revision: commit of the hub's repository; by the directory if it is None.

    Raises:
        SourceError: the directory holds no head, one of another kind, or one that is not understood whole.
    """
    if not is_published_head(path):
        raise SourceError(
            f"a published head must be a directory with a {_CONFIG}, got {str(path)!r}; give the directory or the hub "
            "name of a draft head"
        )
    if (path / "adapter_config.json").is_file():
        raise SourceError(f"the head in {str(path)!r} needs a target with an adapter, which is not supported")
    refuse_pointers([path / _CONFIG])
    config = read_json(path / _CONFIG)
    stored, _ = read_tensors(path)
    refuse_quantised(path, config, stored)
    tensors = canonical(stored)
    if _FUSION not in tensors:
        raise SourceError(
            f"a draft head must have the tensor {_FUSION}, got none in {str(path)!r}; is it a whole language model, or "
            "a head of another kind?"
        )
    settings = read_settings(config, {name: tensor.shape for name, tensor in tensors.items()})
    check_tensors(tensors, settings)
    values = read_values(tensors)
    draft_token_ids = draft_vocabulary(values.pop(OFFSETS, None), settings)
    own_name, snapshot = model_name(path)
    return PublishedHead(
        config=settings,
        tensors=values,
        draft_token_ids=draft_token_ids,
        origin=HeadOrigin(
            name=name or own_name,
            form=settings.form,
            revision=revision or snapshot,
            licence=read_licence(path / "README.md"),
        ),
    )
