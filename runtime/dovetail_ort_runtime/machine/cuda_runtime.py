"""NVIDIA's CUDA runtime as ONNX Runtime's CUDA provider loads it: devices, versions and memory."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dovetail_ort_runtime.errors import UnavailableError
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime

_INSUFFICIENT_DRIVER: Final = 35  # cudaErrorInsufficientDriver
# The first Linux driver of each CUDA, which serves its later minor versions, too (CUDA's release notes, table 2).
_OLDEST_DRIVERS: Final = {12: "525", 13: "580"}
_CUDNN: Final = 9
_DRIVER_FILE: Final = Path("/proc/driver/nvidia/version")
_PROPERTIES_BYTES: Final = 8192  # a cudaDeviceProp has 1 KB and begins with 256 bytes of name
_LIBRARY_NAME: Final = re.compile(r"(lib[\w.+-]+\.so[\d.]*): cannot open shared object file")


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaVersions:
    """What ONNX Runtime's CUDA provider needs and what is installed.

    Attributes:
        needed_cuda: version that onnxruntime-gpu was built with, such as `13.0`.
        needed_driver: oldest driver for it; None if it is not known.
        driver: version of NVIDIA's driver, such as `580.65.06`, or the CUDA that it goes up to; None without a driver.
        cuda: version of the CUDA runtime library; None if it is not found.
        cudnn: version of cuDNN, which the graphs here do without; None if it is not found.
    """

    needed_cuda: str
    needed_driver: str | None
    driver: str | None
    cuda: str | None
    cudnn: str | None


def preload_cuda_libraries() -> None:
    """Load the CUDA libraries of pip packages from any folder of `sys.path`, or else from the loader's own paths.

    ONNX Runtime by itself finds the packages beside it only.
    """
    ort = import_onnxruntime()
    cuda, cudnn = (_package_folder(name) for name in (_runtime_name(), library_name("cudnn", _CUDNN)))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; the loader says it better
        ort.preload_dlls(cudnn=False, directory=cuda)
        ort.preload_dlls(cuda=False, directory=cudnn)


def _package_folder(name: str) -> str:
    found = next(_in_packages(name), None)
    return "" if found is None else str(found.parent)


def _in_packages(name: str) -> Iterator[Path]:
    """Where NVIDIA's packages hold a library.

    `nvidia.__path__` ends at the first folder in which one of them has an `__init__.py`, so `sys.path` is gone through.
    """
    libraries = "*/bin/**" if sys.platform == "win32" else "*/lib"
    for folder in sys.path:
        yield from sorted(Path(folder, "nvidia").glob(f"{libraries}/{name}"))


def load_library(path: str, mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL:
    """Load a library; one that it needs and the loader does not find is looked for in pip's packages.

    Raises:
        OSError: the library, or one that it needs, is not found or is none.
    """
    tried: set[str] = set()
    while True:
        try:
            return ctypes.CDLL(path, mode=mode)
        except OSError as error:
            missing = _LIBRARY_NAME.search(str(error))
            found = None if missing is None or missing[1] in tried else next(_in_packages(missing[1]), None)
            if missing is None or found is None:
                raise
            tried.add(missing[1])
            load_library(str(found))


def library_name(name: str, version: int) -> str:
    """File name of one of CUDA's libraries, `cudart` or `cudnn`."""
    return f"{name}64_{version}.dll" if sys.platform == "win32" else f"lib{name}.so.{version}"


def load_driver() -> ctypes.CDLL:
    """Load the library of NVIDIA's driver; OSError where there is none."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def load_provider() -> None:
    """Load ONNX Runtime's CUDA provider and what it needs; OSError where something is missing."""
    prefix, suffix = ("", ".dll") if sys.platform == "win32" else ("lib", ".so")
    folder = Path(str(import_onnxruntime().__file__)).with_name("capi")
    load_library(str(folder / f"{prefix}onnxruntime_providers_shared{suffix}"), mode=ctypes.RTLD_GLOBAL)
    load_library(str(folder / f"{prefix}onnxruntime_providers_cuda{suffix}"))


def device_problem() -> str | None:
    """Why the runtime has no device, as "<what> must be <rule>, got <value>; <next action>"; None if it has one."""
    number = ctypes.c_int()
    runtime = _runtime()
    status = runtime.cudaGetDeviceCount(ctypes.byref(number))
    if status == 0 and number.value > 0:
        return None
    if status == _INSUFFICIENT_DRIVER:
        return driver_problem(_driver_version(runtime))
    reason = _error_text(runtime, status) if status else "no device"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"
    return f"CUDA must have a GPU that it can use, got: {reason}{chosen}; see nvidia-smi, or take the CPU"


def driver_problem(found: str | None) -> str:
    """As `device_problem`, for a driver that is missing or too old."""
    cuda = needed_cuda()
    oldest = _OLDEST_DRIVERS.get(_major(cuda))
    rule = f"of CUDA {cuda}" if oldest is None else f"{oldest} or newer for CUDA {cuda}"
    return (
        f"CUDA must have NVIDIA's driver {rule}, got {found or 'none'}; "
        "install the driver, start a container with its GPU, or take the CPU"
    )


def device_name() -> str:
    """Name of the GPU."""
    properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    failed = _runtime().cudaGetDeviceProperties(properties, 0)
    return "unknown" if failed else properties.value.decode(errors="replace")


class DeviceMemory:
    """Zeros in the GPU's memory, exactly as many as asked for; given back with the last reference to this.

    ONNX Runtime's own memory for what is in no session doubles with each request that it does not hold.

    Args:
        num_bytes: number of bytes.

    Raises:
        UnavailableError: the GPU has no room for them.

    Attributes:
        address: of the first byte, a multiple of 256.
    """

    def __init__(self, num_bytes: int) -> None:
        runtime = _runtime()
        pointer, size = ctypes.c_void_p(), ctypes.c_size_t(num_bytes)
        status = runtime.cudaMalloc(ctypes.byref(pointer), size)
        if status:
            raise UnavailableError(
                f"memory must hold a cache of {num_bytes} bytes, got: {_error_text(runtime, status)}; "
                "load with a smaller max_context or less on the GPU"
            )
        self.address = int(pointer.value or 0)
        # The end of the process gives back all, and other threads may still run then.
        weakref.finalize(self, runtime.cudaFree, pointer).atexit = False
        runtime.cudaMemset(pointer, 0, size)
        runtime.cudaDeviceSynchronize()  # ONNX Runtime's streams do not wait for it


def page_locked_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros in host memory whose pages stay where they are: the GPU copies from and to them without a detour.

    The memory is given back with the last array that reads it.

    Raises:
        UnavailableError: the system has no such memory left.
    """
    runtime = _runtime()
    num_bytes = max(prod(shape) * np.dtype(dtype).itemsize, 1)
    pointer = ctypes.c_void_p()
    status = runtime.cudaMallocHost(ctypes.byref(pointer), ctypes.c_size_t(num_bytes))
    if status:
        raise UnavailableError(
            f"memory must hold {num_bytes} bytes that stay in place for the GPU, got: {_error_text(runtime, status)}; "
            "close other programs or load with less on the GPU"
        )
    memory = (ctypes.c_uint8 * num_bytes).from_address(int(pointer.value or 0))
    # As of `DeviceMemory`.
    weakref.finalize(memory, runtime.cudaFreeHost, pointer).atexit = False
    array: NDArray[Any] = np.frombuffer(memoryview(memory), dtype=dtype, count=prod(shape)).reshape(shape)
    array[...] = 0
    return array


def _error_text(runtime: Any, status: int) -> str:
    runtime.cudaGetErrorString.restype = ctypes.c_char_p
    return str(runtime.cudaGetErrorString(status).decode())


def vram_in_use() -> int | None:
    """Bytes of the GPU that all programs hold; None if CUDA does not tell."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    failed = _runtime().cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    return None if failed else total.value - free.value


def cuda_versions() -> CudaVersions:
    """What is needed and what is found, whether or not it can be used."""
    preload_cuda_libraries()
    needed = needed_cuda()
    driver = cuda = cudnn = None
    with contextlib.suppress(OSError):
        runtime = _runtime()
        driver, cuda = _driver_version(runtime), _version(runtime.cudaRuntimeGetVersion)
    with contextlib.suppress(OSError):
        library = load_library(library_name("cudnn", _CUDNN))
        library.cudnnGetVersion.restype = ctypes.c_size_t
        number = library.cudnnGetVersion()
        cudnn = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return CudaVersions(
        needed_cuda=needed,
        needed_driver=_OLDEST_DRIVERS.get(_major(needed)),
        driver=driver or _driver_release(),
        cuda=cuda,
        cudnn=cudnn,
    )


def needed_cuda() -> str:
    """Version of CUDA that onnxruntime-gpu was built with."""
    return str(import_onnxruntime().cuda_version)


def _major(version: str) -> int:
    return int(version.split(".")[0])


def _runtime() -> ctypes.CDLL:
    return load_library(_runtime_name())


def _runtime_name() -> str:
    return library_name("cudart", _major(needed_cuda()))


def _driver_version(runtime: Any) -> str | None:
    release = _driver_release()
    if release is not None:
        return release
    newest = _version(runtime.cudaDriverGetVersion)
    return None if newest is None else f"one for CUDA {newest}"


def _driver_release() -> str | None:
    """Of the kernel's module, as Linux tells it."""
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", _DRIVER_FILE.read_text(encoding="utf-8"))
    except OSError:
        return None
    return None if found is None else found[0]


def _version(function: Any) -> str | None:
    """Of a number such as 13020, which is 13.2; None for 0, which is none."""
    number = ctypes.c_int()
    failed = function(ctypes.byref(number))
    return None if failed or not number.value else f"{number.value // 1000}.{number.value % 1000 // 10}"
