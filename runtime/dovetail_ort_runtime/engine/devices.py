"""The devices that sessions run on, and whether they can be used."""

from __future__ import annotations

from typing import Final

from dovetail_ort_runtime.errors import UnavailableError, one_line
from dovetail_ort_runtime.machine.cuda_libraries import load_driver, load_provider, preload_cuda_libraries
from dovetail_ort_runtime.machine.cuda_runtime import device_problem, driver_problem
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime

CPU: Final = "cpu"
CUDA: Final = "cuda"
AUTO: Final = "auto"
DEVICES: Final = (AUTO, CPU, CUDA)
CUDA_PROVIDER: Final = "CUDAExecutionProvider"
CPU_PROVIDER: Final = "CPUExecutionProvider"


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
