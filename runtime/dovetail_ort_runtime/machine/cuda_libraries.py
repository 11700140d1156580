"""NVIDIA's libraries, found and loaded as ONNX Runtime's CUDA provider needs them. It knows no device."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime

CUDNN: Final = 9
_MISSING_LIBRARY: Final = re.compile(r"(lib[\w.+-]+\.so[\d.]*): cannot open shared object file")


def needed_cuda() -> str:
    """Version of CUDA that onnxruntime-gpu was built with, such as `13.0`."""
    return str(import_onnxruntime().cuda_version)


def preload_cuda_libraries() -> None:
    """Load the CUDA libraries of pip packages from any folder of `sys.path`, or else from the loader's own paths.

    ONNX Runtime alone finds only the packages beside itself.
    """
    ort = import_onnxruntime()
    cuda = _package_folder(_runtime_name())
    cudnn = _package_folder(library_name("cudnn", CUDNN))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; the loader's errors say more
        ort.preload_dlls(cudnn=False, directory=cuda)
        ort.preload_dlls(cuda=False, directory=cudnn)


def load_library(path: str, mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL:
    """Load a library. One that it needs and that the loader does not find is looked for in pip's packages.

    Raises:
        OSError: the library, or one that it needs, is not found or is no library.
    """
    tried: set[str] = set()
    while True:
        try:
            return ctypes.CDLL(path, mode=mode)
        except OSError as error:
            missing = _MISSING_LIBRARY.search(str(error))
            if missing is None or missing[1] in tried:
                raise
            found = next(_in_packages(missing[1]), None)
            if found is None:
                raise
            tried.add(missing[1])
            load_library(str(found))


def load_driver() -> ctypes.CDLL:
    """Load the library of NVIDIA's driver; OSError where there is none."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def load_runtime() -> ctypes.CDLL:
    """Load the CUDA runtime; OSError where there is none."""
    return load_library(_runtime_name())


def load_provider() -> None:
    """Load ONNX Runtime's CUDA provider and everything that it needs; OSError where something is missing."""
    prefix, suffix = ("", ".dll") if sys.platform == "win32" else ("lib", ".so")
    folder = Path(str(import_onnxruntime().__file__)).with_name("capi")
    load_library(str(folder / f"{prefix}onnxruntime_providers_shared{suffix}"), mode=ctypes.RTLD_GLOBAL)
    load_library(str(folder / f"{prefix}onnxruntime_providers_cuda{suffix}"))


def library_name(name: str, version: int) -> str:
    """File name of one of CUDA's libraries, `cudart` or `cudnn`, in its major version."""
    return f"{name}64_{version}.dll" if sys.platform == "win32" else f"lib{name}.so.{version}"


def major_version(version: str) -> int:
    """Major number of a version, such as 13 of `13.0`."""
    return int(version.split(".")[0])


def _runtime_name() -> str:
    return library_name("cudart", major_version(needed_cuda()))


def _package_folder(name: str) -> str:
    """Folder of a library in pip's packages, or an empty text."""
    found = next(_in_packages(name), None)
    return "" if found is None else str(found.parent)


def _in_packages(name: str) -> Iterator[Path]:
    """Paths of a library in NVIDIA's pip packages.

    It looks into every folder of `sys.path`: `nvidia.__path__` ends at the first one where a package has an
    `__init__.py`.
    """
    libraries = "*/bin/**" if sys.platform == "win32" else "*/lib"
    for folder in sys.path:
        yield from sorted(Path(folder, "nvidia").glob(f"{libraries}/{name}"))
