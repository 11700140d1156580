"""The machine with its GPU, and the name of the folder for its results; JSON on standard output."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from typing import Any, Final

from benchmarks.machine import machine_slug, measured_here
from dovetail_ort_runtime.machine.cuda_libraries import preload_cuda_libraries
from dovetail_ort_runtime.machine.cuda_runtime import cuda_versions, device_name

PACKAGES: Final = ("dovetail-ort", "onnxruntime-gpu", "torch", "transformers", "numpy")


def described() -> dict[str, Any]:
    """Folder, processor, GPU and versions; the GPU is "no GPU" where CUDA's runtime cannot be loaded."""
    preload_cuda_libraries()
    gpu = "no GPU"
    with contextlib.suppress(OSError):
        gpu = device_name()
    here = measured_here()
    versions = cuda_versions()
    return {
        "folder": machine_slug(f"{here['machine']}, {gpu}"),
        **here,
        "gpu": gpu,
        "driver": versions.driver,
        "cuda": versions.cuda,
        "cudnn": versions.cudnn,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(distribution: str) -> str | None:
    """Version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(json.dumps(described(), indent=1))
