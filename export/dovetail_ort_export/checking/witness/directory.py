"""A model directory, read without any model library: config.json, and the weights beside it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dovetail_ort_export.checking.witness.stored import StoredRows
from dovetail_ort_runtime.errors import SourceError


def read_config(directory: Path) -> dict[str, Any]:
    """The configuration as it stands in config.json."""
    return _read_json(directory / "config.json")


def read_tensors(directory: Path) -> dict[str, StoredRows]:
    """The tensors of model.safetensors or of pytorch_model.bin, in one file or in those that an index names.

    Raises:
        SourceError: there are none, or a file cannot be read.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        read = _read_safetensors if name.endswith(".safetensors") else _read_pickled
        index = directory / f"{name}.index.json"
        if (directory / name).is_file():
            return read(directory / name)
        if index.is_file():
            tensors: dict[str, StoredRows] = {}
            for file in sorted(set(_read_json(index)["weight_map"].values())):
                tensors.update(read(directory / file))
            return tensors
    raise SourceError(f"{directory} has neither model.safetensors nor pytorch_model.bin; download the weights")


def _read_safetensors(file: Path) -> dict[str, StoredRows]:
    try:
        opened: Any = safe_open(file, framework="pt")
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  it is not a mapping
    except (OSError, SafetensorError) as error:
        raise SourceError(f"{file} cannot be read as a safetensors file: {error}; download it again") from error
    return {
        name: StoredRows(shape=tuple(found.get_shape()), read=partial(_rows, found)) for name, found in slices.items()
    }


def _read_pickled(file: Path) -> dict[str, StoredRows]:
    try:
        # torch maps zip files only, the format that it writes since version 1.6.
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except Exception as error:  # a damaged file ends in pickle's, zipfile's or torch's own exceptions
        reason = str(error).strip().partition("\n")[0]
        raise SourceError(f"{file} cannot be read as a file of plain tensors: {reason}; download it again") from error
    return {name: StoredRows(shape=tuple(found.shape), read=partial(_rows, found)) for name, found in state.items()}


def _rows(found: Any, start: int, stop: int) -> Tensor:
    rows: Tensor = found[start:stop]
    return rows


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{file} cannot be read as JSON: {error}; download it again") from error
    if not isinstance(values, dict):
        raise SourceError(f"{file} must hold a JSON object, got {type(values).__name__}")
    return values
