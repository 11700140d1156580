"""The CUDA runtime that ONNX Runtime's CUDA provider uses: its device, versions and memory. It knows no session."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import weakref
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dovetail_ort_runtime.errors import UnavailableError
from dovetail_ort_runtime.machine.cuda_libraries import (
    CUDNN,
    library_name,
    load_library,
    load_runtime,
    major_version,
    needed_cuda,
    preload_cuda_libraries,
)

_INSUFFICIENT_DRIVER: Final = 35  # cudaErrorInsufficientDriver
# The first Linux driver of each CUDA, which also serves its later minor versions (CUDA's release notes, table 2).
_OLDEST_DRIVERS: Final = {12: "525", 13: "580"}
_DRIVER_FILE: Final = Path("/proc/driver/nvidia/version")
_PROPERTIES_BYTES: Final = 8192  # a cudaDeviceProp has 1 KB, and begins with 256 bytes of name


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaVersions:
    """What ONNX Runtime's CUDA provider needs and what is installed.

    Attributes:
        needed_cuda: version that onnxruntime-gpu was built with, such as `13.0`.
        needed_driver: oldest driver for that CUDA; None if it is not known.
        driver: version of NVIDIA's driver, such as `580.65.06`, or the newest CUDA that it serves; None without one.
        cuda: version of the CUDA runtime library; None if it is not found.
        cudnn: version of cuDNN, which the graphs here do not need; None if it is not found.
    """

    needed_cuda: str
    needed_driver: str | None
    driver: str | None
    cuda: str | None
    cudnn: str | None


def device_problem() -> str | None:
    """Why CUDA has no device, in one line with what to do next; None if it has one."""
    number = ctypes.c_int()
    runtime = load_runtime()
    status = runtime.cudaGetDeviceCount(ctypes.byref(number))
    if status == 0 and number.value > 0:
        return None
    if status == _INSUFFICIENT_DRIVER:
        return driver_problem(_driver_version(runtime))
    reason = _error_text(runtime, status) if status else "no device"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"
    return f"CUDA finds no GPU that it can use: {reason}{chosen}; see nvidia-smi, or use the CPU"


def driver_problem(found: str | None) -> str:
    """What is wrong with a driver that is missing or too old, in one line with what to do next.

    Args:
        found: version of the driver, or None.
    """
    cuda = needed_cuda()
    oldest = _OLDEST_DRIVERS.get(major_version(cuda))
    rule = f"one for CUDA {cuda}" if oldest is None else f"{oldest} or newer for CUDA {cuda}"
    return (
        f"NVIDIA's driver must be {rule}, got {found or 'none'}; "
        "install the driver, start the container with its GPU, or use the CPU"
    )


def device_name() -> str:
    """Name of the GPU."""
    properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    failed = load_runtime().cudaGetDeviceProperties(properties, 0)
    return "unknown" if failed else properties.value.decode(errors="replace")


class DeviceMemory:
    """Zeros in the GPU's memory, exactly as many as asked for. They are given back with the last reference to this.

    ONNX Runtime's own allocator, outside of sessions, doubles its memory when it has to grow.

    Args:
        num_bytes: number of bytes.

    Raises:
        UnavailableError: the GPU has no room for them.

    Attributes:
        address: address of the first byte, a multiple of 256.
    """

    def __init__(self, num_bytes: int) -> None:
        runtime = load_runtime()
        pointer = ctypes.c_void_p()
        size = ctypes.c_size_t(num_bytes)
        status = runtime.cudaMalloc(ctypes.byref(pointer), size)
        if status:
            raise UnavailableError(
                f"the GPU has no room for a cache of {num_bytes} bytes: {_error_text(runtime, status)}; "
                "load with a smaller max_context, or with less on the GPU"
            )
        self.address = int(pointer.value or 0)
        # Not at exit: the end of the process gives back everything, and other threads may still run then.
        weakref.finalize(self, runtime.cudaFree, pointer).atexit = False
        runtime.cudaMemset(pointer, 0, size)
        runtime.cudaDeviceSynchronize()  # ONNX Runtime's streams do not wait for it


def page_locked_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros in page-locked host memory, from and to which the GPU copies without a detour.

    The memory is given back with the last array that reads it.

    Raises:
        UnavailableError: the system has no such memory left.
    """
    runtime = load_runtime()
    num_bytes = max(prod(shape) * np.dtype(dtype).itemsize, 1)
    pointer = ctypes.c_void_p()
    status = runtime.cudaMallocHost(ctypes.byref(pointer), ctypes.c_size_t(num_bytes))
    if status:
        raise UnavailableError(
            f"there is no page-locked memory of {num_bytes} bytes for the GPU: {_error_text(runtime, status)}; "
            "close other programs, or load with less on the GPU"
        )
    memory = (ctypes.c_uint8 * num_bytes).from_address(int(pointer.value or 0))
    # Not at exit, as in `DeviceMemory`.
    weakref.finalize(memory, runtime.cudaFreeHost, pointer).atexit = False
    array: NDArray[Any] = np.frombuffer(memoryview(memory), dtype=dtype, count=prod(shape)).reshape(shape)
    array[...] = 0
    return array


def _error_text(runtime: Any, status: int) -> str:
    runtime.cudaGetErrorString.restype = ctypes.c_char_p
    return str(runtime.cudaGetErrorString(status).decode())


def vram_in_use() -> int | None:
    """Bytes of the GPU's memory that all programs together hold; None if CUDA does not say."""
    free = ctypes.c_size_t()
    total = ctypes.c_size_t()
    failed = load_runtime().cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    return None if failed else total.value - free.value


def cuda_versions() -> CudaVersions:
    """Versions that are needed and versions that are found, whether or not CUDA can be used."""
    preload_cuda_libraries()
    needed = needed_cuda()
    driver: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    with contextlib.suppress(OSError):
        runtime = load_runtime()
        driver = _driver_version(runtime)
        cuda = _version(runtime.cudaRuntimeGetVersion)
    with contextlib.suppress(OSError):
        cudnn = _cudnn_version()
    return CudaVersions(
        needed_cuda=needed,
        needed_driver=_OLDEST_DRIVERS.get(major_version(needed)),
        driver=driver or _driver_release(),
        cuda=cuda,
        cudnn=cudnn,
    )


def _cudnn_version() -> str:
    library = load_library(library_name("cudnn", CUDNN))
    library.cudnnGetVersion.restype = ctypes.c_size_t
    number = library.cudnnGetVersion()  # 91002 is 9.10.2
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _driver_version(runtime: Any) -> str | None:
    release = _driver_release()
    if release is not None:
        return release
    newest = _version(runtime.cudaDriverGetVersion)
    return None if newest is None else f"one for CUDA {newest}"


def _driver_release() -> str | None:
    """Version of the kernel's module, where Linux shows it."""
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", _DRIVER_FILE.read_text(encoding="utf-8"))
    except OSError:
        return None
    return None if found is None else found[0]


def _version(function: Any) -> str | None:
    """Version that a function of the runtime gives as a number, such as 13020 for 13.2; None for 0."""
    number = ctypes.c_int()
    failed = function(ctypes.byref(number))
    return None if failed or not number.value else f"{number.value // 1000}.{number.value % 1000 // 10}"
