"""The devices that sessions run on, and whether they can be used."""

import contextlib
import ctypes
import io
import re
import sys
from pathlib import Path
from typing import Final

from dovetail_ort_runtime.environment import import_onnxruntime
from dovetail_ort_runtime.errors import InputError, UnavailableError

CPU: Final = "cpu"
CUDA: Final = "cuda"
AUTO: Final = "auto"
DEVICES: Final = (AUTO, CPU, CUDA)
CUDA_PROVIDER: Final = "CUDAExecutionProvider"
CPU_PROVIDER: Final = "CPUExecutionProvider"
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def require_cuda() -> None:
    """Load the CUDA libraries of pip packages, if there are any, and see that ONNX Runtime finds all it needs.

    Raises:
        UnavailableError: the CUDA provider or one of its libraries is missing.
    """
    ort = import_onnxruntime()
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise UnavailableError(
            "CUDA must have the package onnxruntime-gpu, got onnxruntime without it; "
            "run: pip uninstall -y onnxruntime, then pip install 'dovetail-ort[gpu]'"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; the loader says it better
        ort.preload_dlls(directory="")
    try:
        _provider_library("shared", mode=ctypes.RTLD_GLOBAL)
        _provider_library("cuda")
    except OSError as error:
        raise UnavailableError(
            f"CUDA must have the libraries that onnxruntime-gpu {ort.__version__} was built with, got: {error}; "
            "run: pip install 'onnxruntime-gpu[cuda,cudnn]', and install NVIDIA's driver"
        ) from error


def vram_in_use() -> int | None:
    """Bytes of the GPU that all programs hold; None if CUDA does not tell."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    try:  # Linux finds it in a library that this one needs
        failed = _provider_library("cuda").cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    except AttributeError:
        return None
    return None if failed else total.value - free.value


def _provider_library(name: str, mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL:
    prefix, suffix = ("", ".dll") if sys.platform == "win32" else ("lib", ".so")
    folder = Path(str(import_onnxruntime().__file__)).with_name("capi")
    return ctypes.CDLL(str(folder / f"{prefix}onnxruntime_providers_{name}{suffix}"), mode=mode)


def has_cuda() -> bool:
    """Whether `require_cuda` raises nothing."""
    try:
        require_cuda()
    except UnavailableError:
        return False
    return True


def parse_bytes(text: str) -> int:
    """A number of bytes from a text such as `3GB`, `512MiB` or `2e9`.

    Raises:
        InputError: it is none, or not above zero.
    """
    found = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([KMG]I?)?B?\s*", text, re.IGNORECASE)
    try:
        number = int(float(found[1]) * _UNITS[(found[2] or "").upper()]) if found else 0
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise InputError(f"a size must be a number of bytes above 0 such as 3GB, got {text!r}")
    return number
