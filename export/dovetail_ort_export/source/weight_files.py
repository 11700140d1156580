"""The tensors of a model directory by name, not read yet: safetensors or PyTorch files, in one or many parts.

It does not know which tensors a model needs; `weight_check` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dovetail_ort_export.source.checkpoint import StoredTensor
from dovetail_ort_export.source.diagnosis import refuse_pointers, without_weights
from dovetail_ort_export.source.json_file import read_json
from dovetail_ort_runtime.errors import SourceError

# Number types by their names in the header of a safetensors file.
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

ReadFile = Callable[[Path], dict[str, StoredTensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Format:
    """The files of one format.

    Attributes:
        single: name of the file that holds all weights.
        index: name of the file that says which part holds which weights.
        parts: pattern for the names of the parts.
    """

    single: str
    index: str
    parts: str


_SAFETENSORS: Final = _Format(
    single="model.safetensors", index="model.safetensors.index.json", parts="model-*-of-*.safetensors"
)
_PYTORCH: Final = _Format(
    single="pytorch_model.bin", index="pytorch_model.bin.index.json", parts="pytorch_model-*-of-*.bin"
)


def read_tensors(path: Path) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """Find all tensors of a directory.

    Safetensors have precedence over PyTorch files, as in transformers. From PyTorch files only tensors are read, and no
    code in them is run.

    Args:
        path: the directory.

    Returns:
        The tensors by name, and notes on files that are not read.

    Raises:
        SourceError: there are no weights, two sets of them, or a damaged or missing part.
    """
    readers: dict[_Format, ReadFile] = {_SAFETENSORS: _in_safetensors, _PYTORCH: _in_pytorch_file}
    for layout, read in readers.items():
        files = _files(path, layout)
        if files is not None:
            refuse_pointers(files)
            return _merged(files, read), _left_aside(path, set(files))
    raise without_weights(path)


def _files(path: Path, layout: _Format) -> dict[Path, tuple[str, ...]] | None:
    """Files to read, with the names that an index promises of each; None if this format is not there."""
    if (path / layout.index).is_file():
        return _files_by_index(path, layout)
    return _files_without_index(path, layout)


def _files_without_index(path: Path, layout: _Format) -> dict[Path, tuple[str, ...]] | None:
    single = path / layout.single
    parts = any(path.glob(layout.parts))
    if single.is_file():
        if parts:
            raise _two_sets(path, f"delete {layout.single} or {layout.parts}")
        return {single: ()}
    if parts:
        raise SourceError(
            f"{str(path)!r} must have {layout.index} to say which part holds which weight, which is missing; "
            "download the model's other files"
        )
    return None


def _files_by_index(path: Path, layout: _Format) -> dict[Path, tuple[str, ...]]:
    single = path / layout.single
    files = _indexed(path / layout.index)
    missing = [file.name for file in files if not file.is_file()]
    if single.is_file() and single not in files:
        wrong = layout.index if missing else layout.single
        raise _two_sets(path, f"delete {wrong}, which does not belong here")
    if missing:
        raise SourceError(
            f"all {len(files)} parts of the weights must be there, got none called {', '.join(missing[:3])}"
            f"{_and_more(missing)}; download the missing parts"
        )
    return files


def _indexed(index: Path) -> dict[Path, tuple[str, ...]]:
    """The parts that an index names, each with the names of its weights."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f"{index} must have a weight_map from weights to files; download it again")
    files: dict[Path, list[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or PurePosixPath(file).name != file or "\\" in file:
            raise SourceError(f"{index} must name files beside it, got {file!r} for {name}; download it again")
        files.setdefault(index.parent / file, []).append(name)
    return {file: tuple(names) for file, names in sorted(files.items())}


def _merged(files: Mapping[Path, tuple[str, ...]], read: ReadFile) -> dict[str, StoredTensor]:
    """The tensors of all files. Each is in one file alone, and in the one that an index promises."""
    found: dict[str, StoredTensor] = {}
    for file, promised in files.items():
        tensors = read(file)
        lacking = [name for name in promised if name not in tensors]
        if lacking:
            raise SourceError(
                f"{file} must hold what the index says, got no {lacking[0]}{_and_more(lacking, 1)}; "
                "download index and parts again, from one revision"
            )
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise SourceError(
                f"each weight must be in one file, got {twice[0]} in {file.name} and another one; "
                "download index and parts again, from one revision"
            )
        found |= tensors
    return found


def _in_safetensors(file: Path) -> dict[str, StoredTensor]:
    try:
        handle: Any = safe_open(file, framework="pt")
        parts = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118  # it is no mapping
        headers = {name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in parts.items()}
    except (OSError, SafetensorError) as error:
        raise SourceError(
            f"{file} must be a whole safetensors file, got {file.stat().st_size} bytes and: {error}; download it again"
        ) from None
    for name, (_, dtype) in headers.items():
        if dtype not in _DTYPES:
            raise SourceError(f"{file} must hold weights of a known number type, got {dtype} of {name}")
    return {
        name: StoredTensor(shape=shape, dtype=_DTYPES[dtype], read=partial(handle.get_tensor, name))
        for name, (shape, dtype) in headers.items()
    }


def _in_pytorch_file(file: Path) -> dict[str, StoredTensor]:
    try:
        # torch maps zip files only, the format that it writes since version 1.6.
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except Exception as error:  # pickle, zip and torch each have exceptions of their own
        raise SourceError(
            f"{file} is not a whole file of tensors alone: {_reason(error)}; take the model's safetensors files"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise SourceError(f"{file} must hold tensors by name and nothing else; take the model's safetensors files")
    return {
        str(name): StoredTensor(shape=tuple(value.shape), dtype=value.dtype, read=value.detach)
        for name, value in found.items()
    }


def _reason(error: Exception) -> str:
    """The line of torch's message that says what is wrong. Other lines advise to run the code in the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("Trying to", "Unsupported", "WeightsUnpickler error"))]
    found = telling or lines or [type(error).__name__]
    return found[0][:300]


def _left_aside(path: Path, files: set[Path]) -> tuple[str, ...]:
    """A note on weights that are not read, if there are any."""
    names = sorted(file.name for file in _further(path) if file not in files)
    if not names:
        return ()
    return (f"not read: {', '.join(names[:3])}{_and_more(names)}",)


def _further(path: Path) -> Iterator[Path]:
    """Weights of the directory that a note names. PyTorch files beside safetensors hold the same, and get no note."""
    for pattern in ("*.safetensors", "consolidated*.pth"):
        yield from path.glob(pattern)


def _two_sets(path: Path, action: str) -> SourceError:
    return SourceError(f"{str(path)!r} must have one set of weights, got two; {action}")


def _and_more(names: list[str], shown: int = 3) -> str:
    return f" and {len(names) - shown} more" if len(names) > shown else ""
