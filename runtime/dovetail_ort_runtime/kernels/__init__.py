"""Our own operators of ONNX Runtime: the library that was built with this package, and no other.

What the operators mean stands in `source/kernels.h` and `docs/kernels.md`. The library is loaded by its absolute path
in the package's own folder: no environment variable, working directory, search path or bundle names another.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any, Final

from dovetail_ort_runtime.errors import UnavailableError, one_line

OPERATOR_DOMAIN: Final = "dovetail.native"
OPERATOR_VERSION: Final = 1
CACHE_BLOCK: Final = 64
"""Slots of a KV cache come in multiples of this."""

_NAMES: Final = {"win32": "dovetail_kernels.dll", "darwin": "libdovetail_kernels.dylib"}
_NAME: Final = _NAMES.get(sys.platform, "libdovetail_kernels.so")
# An editable install has two folders: that of the sources, and that of what is built of them.
_FOLDERS: Final = tuple(Path(folder).resolve() for folder in __path__)


def library_path() -> Path | None:
    """Absolute path of the library; None where the package was built without one."""
    paths = (folder / _NAME for folder in _FOLDERS)
    return next((path for path in paths if path.is_file()), None)


def is_available() -> bool:
    """Whether native graphs can run here."""
    return why_missing() is None


@functools.cache
def why_missing() -> str | None:
    """Why the library cannot be used, in one line with the command that helps; None where it can be."""
    path = library_path()
    if path is None:
        return f"the library of native operators must be built with this package, got none; {_how_to_build()}"
    try:
        version = ctypes.CDLL(os.fspath(path)).dovetail_operator_version()
    except (OSError, AttributeError) as error:
        return f"the library of native operators must load, got: {one_line(error)}; {_how_to_build()}"
    if version != OPERATOR_VERSION:
        return (
            f"the library of native operators must have version {OPERATOR_VERSION} of the operators, got {version}; "
            f"{_how_to_build()}"
        )
    return None


def register(options: Any) -> None:
    """Let a session with these `onnxruntime.SessionOptions` run native graphs.

    Raises:
        UnavailableError: the library is missing, or `DOVETAIL_KERNELS` names a level that this processor lacks.
    """
    path = _usable_path()
    level()
    try:
        options.register_custom_ops_library(os.fspath(path))
    except Exception as error:  # onnxruntime raises its own classes straight from C++
        raise UnavailableError(
            f"the library of native operators must register in ONNX Runtime, got: {one_line(error)}; {_how_to_build()}"
        ) from error


def level() -> str:
    """The level of instructions that the operators use in this process: `avx512vnni`, `portable` and so on.

    Raises:
        UnavailableError: as `register`.
    """
    is_error = ctypes.c_int()
    text: bytes = _load(_usable_path()).dovetail_level(ctypes.byref(is_error))
    if is_error.value:
        raise UnavailableError(text.decode())
    return text.decode()


def levels() -> tuple[str, ...]:
    """The levels that this processor could use, the fastest one first.

    Raises:
        UnavailableError: the library is missing.
    """
    text: bytes = _load(_usable_path()).dovetail_levels()
    return tuple(text.decode().split())


def library_version() -> str:
    """The version of dovetail-ort that the library was built with.

    Raises:
        UnavailableError: the library is missing.
    """
    text: bytes = _load(_usable_path()).dovetail_library_version()
    return text.decode()


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
    """The command that builds the library from where this package was installed from.

    It works around pip's cache, which holds the wheel that was built without a compiler.
    """
    import importlib.metadata  # takes 20 ms
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
