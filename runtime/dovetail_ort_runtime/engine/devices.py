"""The devices that sessions run on, and whether they can be used."""

from __future__ import annotations

import contextlib
import re
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dovetail_ort_runtime.errors import InputError, UnavailableError, one_line
from dovetail_ort_runtime.machine.cuda_libraries import load_driver, load_provider, preload_cuda_libraries
from dovetail_ort_runtime.machine.cuda_runtime import device_problem, driver_problem, page_locked_zeros
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime

CPU: Final = "cpu"
CUDA: Final = "cuda"
AUTO: Final = "auto"
DEVICES: Final = (AUTO, CPU, CUDA)
CUDA_PROVIDER: Final = "CUDAExecutionProvider"
CPU_PROVIDER: Final = "CPUExecutionProvider"
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def require_cuda() -> None:
    """Load the CUDA libraries of pip packages, if there are any, and check that ONNX Runtime finds all it needs.

    Raises:
        UnavailableError: the CUDA provider, the driver, a library or a GPU is missing.
    """
    ort = import_onnxruntime()
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise UnavailableError(
            "CUDA needs the package onnxruntime-gpu, but onnxruntime is installed; "
            'run: pip uninstall -y onnxruntime, then pip install "dovetail-ort[gpu]"'
        )
    preload_cuda_libraries()
    try:
        load_driver()
    except OSError as error:
        raise UnavailableError(driver_problem(f"none ({one_line(error)})")) from error
    try:
        load_provider()
    except OSError as error:
        raise UnavailableError(
            f"CUDA lacks a library that onnxruntime-gpu {ort.__version__} was built with: {one_line(error)}; "
            'run: pip install "onnxruntime-gpu[cuda,cudnn]"'
        ) from error
    problem = device_problem()
    if problem is not None:
        raise UnavailableError(problem)


def has_cuda() -> bool:
    """Whether `require_cuda` raises nothing."""
    try:
        require_cuda()
    except UnavailableError:
        return False
    return True


class HostBuffers:
    """Memory of the host that a session reads and writes, shared by its forwards of all sizes.

    One forward runs at a time, so each may overwrite what the last one read and wrote. For a GPU the memory is
    page-locked, and the GPU copies from it without a detour. To get such memory takes milliseconds, more than a
    drafter's forward, so no size of forward has memory of its own.

    Args:
        device: `cpu` or `cuda`.
    """

    def __init__(self, device: str) -> None:
        self._zeros = page_locked_zeros if device == CUDA else np.zeros
        self._whole: dict[str, NDArray[Any]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """The beginning of the memory of that name, as an array.

        Where the memory is too small, it is made anew and larger. Arrays that were handed out before stay valid.
        """
        size = prod(shape)
        whole = self._whole.get(name)
        if whole is None or len(whole) < size:
            rounded = 1 << (size - 1).bit_length()
            whole = self._zeros((rounded,), dtype)
            self._whole[name] = whole
        return whole[:size].reshape(shape)


def parse_bytes(text: str) -> int:
    """A number of bytes from a text such as `3GB`, `512MiB` or `2e9`.

    Raises:
        InputError: the text is no number of bytes above 0.
    """
    found = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([KMG]I?)?B?\s*", text, re.IGNORECASE)
    number = 0
    if found is not None:
        unit = (found[2] or "").upper()
        with contextlib.suppress(ValueError, OverflowError):
            number = int(float(found[1]) * _UNITS[unit])
    if number < 1:
        raise InputError(f"a size must be a number of bytes above 0 such as 3GB, got {text!r}")
    return number
