"""The library of native operators that was built with this package, and no other. It knows no graph.

`source/kernels.h` and `docs/kernels.md` say what the operators mean. The library is loaded by its absolute path in the
package's own folder. No environment variable, working directory, search path or bundle can name another one.

    source (C++) -> library, when this package is built -> library_path -> why_missing: it can be used, or what helps
    register: a session's options -> the operators of the library; level, levels: instruction sets that they use
    pyinstaller: the library in applications that PyInstaller freezes
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
from pathlib import Path
from typing import Final, Protocol

from dovetail_ort_runtime.errors import UnavailableError, one_line

OPERATOR_DOMAIN: Final = "dovetail.native"
OPERATOR_VERSION: Final = 1
CACHE_BLOCK: Final = 64
"""Number of slots that a KV cache grows by: its capacity is a multiple of this."""

_NAMES: Final = {"win32": "dovetail_kernels.dll", "darwin": "libdovetail_kernels.dylib"}
_NAME: Final = _NAMES.get(sys.platform, "libdovetail_kernels.so")
# An editable install has two folders: one of the sources, and one of what is built from them.
_FOLDERS: Final = tuple(Path(folder).resolve() for folder in __path__)
# How an ELF file with 64-bit little-endian numbers begins, and the size of its header (`man 5 elf`).
_ELF: Final = b"\x7fELF\x02\x01"
_ELF_HEADER_BYTES: Final = 64


class SessionOptions(Protocol):
    """An `onnxruntime.SessionOptions`, as far as a library of operators needs it."""

    def register_custom_ops_library(self, path: str, /) -> None:
        """Let sessions use the operators of a library."""


def library_path() -> Path | None:
    """Absolute path of the library; None if the package was built without one."""
    paths = (folder / _NAME for folder in _FOLDERS)
    return next((path for path in paths if path.is_file()), None)


def is_available() -> bool:
    """Whether native graphs can run in this process."""
    return why_missing() is None


@functools.cache
def why_missing() -> str | None:
    """Why the library cannot be used, in one line with the command that helps; None if it can be used."""
    path = library_path()
    if path is None:
        return f"this package was built without its library of native operators; {_how_to_build()}"
    try:
        if _is_truncated(path):
            return f"the file of the library of native operators is truncated: {path}; {_how_to_build()}"
        version = ctypes.CDLL(os.fspath(path)).dovetail_operator_version()
    except (OSError, AttributeError) as error:
        return f"the library of native operators does not load: {one_line(error)}; {_how_to_build()}"
    if version != OPERATOR_VERSION:
        return (
            f"the library of native operators must have version {OPERATOR_VERSION} of the operators, got {version}; "
            f"{_how_to_build()}"
        )
    return None


def register(options: SessionOptions) -> None:
    """Let sessions with these options run native graphs.

    Args:
        options: settings of sessions that are opened afterwards.

    Raises:
        UnavailableError: the library cannot be used, or `DOVETAIL_KERNELS` names a level that this processor lacks.
    """
    path = _usable_path()
    level()
    try:
        options.register_custom_ops_library(os.fspath(path))
    except Exception as error:  # onnxruntime raises its own classes straight from C++
        raise UnavailableError(
            f"ONNX Runtime refuses the library of native operators: {one_line(error)}; {_how_to_build()}"
        ) from error


def level() -> str:
    """Level of instructions that the operators use in this process, such as `avx512vnni` or `portable`.

    Raises:
        UnavailableError: the library cannot be used, or `DOVETAIL_KERNELS` names a level that this processor lacks.
    """
    is_error = ctypes.c_int()
    text: bytes = _load(_usable_path()).dovetail_level(ctypes.byref(is_error))
    if is_error.value:
        raise UnavailableError(text.decode())
    return text.decode()


def levels() -> tuple[str, ...]:
    """Levels that this processor can use, fastest first.

    Raises:
        UnavailableError: the library cannot be used.
    """
    text: bytes = _load(_usable_path()).dovetail_levels()
    return tuple(text.decode().split())


def library_version() -> str:
    """Version of dovetail-ort that the library was built with.

    Raises:
        UnavailableError: the library cannot be used.
    """
    text: bytes = _load(_usable_path()).dovetail_library_version()
    return text.decode()


def _is_truncated(path: Path) -> bool:
    """Whether an ELF file lacks its end, which kills the process that loads it.

    The last part of such a file is its table of section headers. The file's header says where the table begins
    (`e_shoff`, at byte 40), how long an entry is and how many there are (`e_shentsize` and `e_shnum`, at byte 58).
    """
    with path.open("rb") as file:
        header = file.read(_ELF_HEADER_BYTES)
    if not header.startswith(_ELF):
        return False
    if len(header) < _ELF_HEADER_BYTES:
        return True
    (offset,) = struct.unpack_from("<Q", header, 40)
    entry_bytes, num_entries = struct.unpack_from("<2H", header, 58)
    return path.stat().st_size < int(offset) + int(entry_bytes) * int(num_entries)


def _usable_path() -> Path:
    reason = why_missing()
    path = library_path()
    if reason is not None or path is None:
        raise UnavailableError(reason or "the library of native operators was removed; install dovetail-ort again")
    return path


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(os.fspath(path))
    for name in ("dovetail_level", "dovetail_levels", "dovetail_library_version"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


def _how_to_build() -> str:
    """Command that builds the library from the place that this package was installed from.

    It bypasses pip's cache, which may hold a wheel that was built without a compiler.
    """
    import importlib.metadata  # slow to import, and only this advice needs it
    import json
    from urllib.parse import unquote

    try:
        origin = importlib.metadata.distribution("dovetail-ort").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # the folder was copied
        return "copy the folder dovetail_ort_runtime of an installed dovetail-ort that has it"
    source = "--no-binary dovetail-ort dovetail-ort"
    if origin is not None:
        found = json.loads(origin)
        editable = "--editable " if found.get("dir_info", {}).get("editable") else ""
        source = f"{editable}'{unquote(found['url']).removeprefix('file://')}'"
    command = f"pip install --no-deps --no-cache-dir --force-reinstall {source}"
    return f"install a C++17 compiler and run: DOVETAIL_REQUIRE_KERNELS=1 {command}"
