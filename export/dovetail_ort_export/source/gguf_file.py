"""A GGUF file, or all parts of one, as metadata and tensors. It knows the container, and nothing of models.

The `gguf` package reads the file. Where it cannot, this module says why in one line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray

from dovetail_ort_export.source.diagnosis import is_pointer
from dovetail_ort_runtime.errors import SourceError, one_line

# What to do about a part of a GGUF file that is not covered.
USE_DIRECTORY: Final = "export the model from its Hugging Face directory instead"

_MAGIC: Final = b"GGUF"
_OLDER_MAGICS: Final = (b"lmgg", b"fmgg", b"tjgg", b"algg")  # ggml, ggmf, ggjt and ggla, in the order of their bytes
_VERSIONS: Final = (2, 3)
_HEADER_BYTES: Final = 24
_PART_NAME: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GgufFile:
    """A GGUF file whose data is mapped, not read.

    Attributes:
        path: the file, or the first of its parts.
        metadata: numbers, truth values, strings and lists of them, by key.
        tensors: tensors by their names in the file.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, gguf.ReaderTensor]


class _Reader(gguf.GGUFReader):  # type: ignore[misc]  # gguf ships no type information
    """The package's reader on a plain array. It takes many slices, and one of a memory map is several times slower."""

    @property
    def data(self) -> NDArray[np.uint8]:
        """The mapped file."""
        return self._data

    @data.setter
    def data(self, mapped: NDArray[np.uint8]) -> None:
        self._data = np.asarray(mapped)


def open_gguf(path: Path) -> GgufFile:
    """Open a GGUF file, and all further parts if it is the first of several.

    Args:
        path: the file, or the first of its parts.

    Raises:
        SourceError: the file is not there, is no GGUF file of a version that is read, is damaged, or is not the first
            part; or a part is missing.
    """
    if not path.is_file():
        raise SourceError(f"a GGUF source must be a file, got {str(path)!r}, which is not there")
    first = _open_part(path)
    metadata = _contents(first, path)
    count = _number(metadata, "split.count", 1)
    tensors = {tensor.name: tensor for tensor in first.tensors}
    if count > 1:
        _check_first(path, metadata)
        for number in range(2, count + 1):
            _add_part(path, number, count, tensors)
        expected = _number(metadata, "split.tensors.count", len(tensors))
        if len(tensors) != expected:
            raise SourceError(
                f"the {count} parts of {path.name} must hold {expected} tensors, got {len(tensors)}; "
                "download all parts from one place"
            )
    return GgufFile(path=path, metadata=metadata, tensors=tensors)


def part_stem(path: Path) -> str:
    """The name of a file without its suffix and without the number of the part."""
    part = _PART_NAME.fullmatch(path.name)
    return part["stem"] if part else path.stem


def _open_part(path: Path) -> gguf.GGUFReader:
    _check_header(path)
    try:
        return _Reader(path)
    except Exception as error:  # the package has no error of its own: a damaged file ends in any of numpy's
        reason = one_line(error) or type(error).__name__
        raise SourceError(
            f"a GGUF file must be whole, got {path.name}, which ends early or is damaged ({reason}); download it again"
        ) from error


def _check_header(path: Path) -> None:
    """Refuse a file that is no GGUF file of this byte order and of a known version, and say what it is."""
    if is_pointer(path):
        raise SourceError(f"{path.name} is a Git LFS pointer, not the model; fetch it with: git lfs pull")
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    magic = header[:4]
    if magic in _OLDER_MAGICS:
        raise SourceError(f"{path.name} is of a format older than GGUF; convert the model again with llama.cpp")
    if magic != _MAGIC:
        raise SourceError(
            f"a GGUF file must begin with {_MAGIC!r}, got {magic!r} in {path.name}; is it another format?"
        )
    if len(header) < _HEADER_BYTES:
        raise SourceError(f"a GGUF file must be whole, got {len(header)} bytes in {path.name}; download it again")
    version = int.from_bytes(header[4:8], "little")
    if int.from_bytes(header[4:8], "big") in _VERSIONS:
        raise SourceError(f"{path.name} is a GGUF file for big-endian machines; take the one for all others")
    if version not in _VERSIONS:
        raise SourceError(
            f"the GGUF version must be {_VERSIONS[0]} or {_VERSIONS[1]}, got {version} in {path.name}; "
            "convert the model again with llama.cpp"
        )


def _contents(reader: gguf.GGUFReader, path: Path) -> dict[str, Any]:
    """The metadata by key."""
    metadata = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):  # the header, which the package counts among the fields
            continue
        try:
            metadata[key] = _value(field)
        except UnicodeDecodeError as error:
            raise SourceError(
                f"the text of {key} must be UTF-8, got bytes of another kind in {path.name}; convert the model again"
            ) from error
    return metadata


def _value(field: gguf.ReaderField) -> Any:
    value = field.contents()
    empty_list = value is None or (value == [] and field.types[:1] == [gguf.GGUFValueType.ARRAY])
    return [] if empty_list else value


def _number(metadata: dict[str, Any], key: str, default: int) -> int:
    """The whole number under a key, or `default` if the key is not there."""
    value = metadata.get(key, default)
    if not isinstance(value, int):
        raise SourceError(f"{key} must be a whole number, got {value!r:.60}; download all parts again")
    return value


def _check_first(path: Path, metadata: dict[str, Any]) -> None:
    """Refuse a part that is not the first one, or that has another name than its metadata says."""
    count = metadata["split.count"]
    number = _number(metadata, "split.no", 0) + 1
    part = _PART_NAME.fullmatch(path.name)
    if part is None or int(part["count"]) != count or int(part["number"]) != number:
        raise SourceError(
            f"part {number} of {count} of a GGUF model must keep its name, NAME-{number:05}-of-{count:05}.gguf, "
            f"got {path.name}; rename it and the other parts"
        )
    if number != 1:
        raise SourceError(f"{path.name} is part {number} of {count}; give the first, {_part_path(path, 1).name}")


def _add_part(first: Path, number: int, count: int, tensors: dict[str, gguf.ReaderTensor]) -> None:
    """Add the tensors of part `number` to those of the parts before it."""
    path = _part_path(first, number)
    if not path.is_file():
        raise SourceError(
            f"all {count} parts of {first.name} must lie in one directory, got none called {path.name}; download it"
        )
    part = _open_part(path)
    metadata = _contents(part, path)
    if (metadata.get("split.no"), metadata.get("split.count")) != (number - 1, count):
        raise SourceError(f"{path.name} must be part {number} of {count}, which it is not; download all parts again")
    _check_once(path, part.tensors, tensors)
    tensors.update({tensor.name: tensor for tensor in part.tensors})


def _check_once(path: Path, found: Sequence[gguf.ReaderTensor], known: dict[str, gguf.ReaderTensor]) -> None:
    for tensor in found:
        if tensor.name in known:
            raise SourceError(
                f"a tensor must stand in one part of a GGUF model, got {tensor.name} twice, again in {path.name}; "
                "download all parts from one place"
            )


def _part_path(path: Path, number: int) -> Path:
    part = _PART_NAME.fullmatch(path.name)
    assert part is not None
    return path.with_name(f"{part['stem']}-{number:05}-of-{part['count']}{part['suffix']}")
