"""The real CUDA provider of ONNX Runtime on a stand-in of the CUDA libraries, on a machine without a GPU.

The stand-in answers every call that the provider makes. Its memory is the host's, its kernels and products do nothing,
and what is copied from the device is zero.

It shows where nodes run, in which order a forward copies, launches and waits, and how often; what memory is asked for
and whether a limit is kept; that a missing device, an old driver and a lack of memory are reported; that the target's
answer does not depend on what the device drafts.

It cannot show a number that a kernel computes, so neither accuracy nor whether a front on CUDA is exact; nor any time;
nor a fault that only a real device has, such as a launch that the hardware refuses, or a copy that is not yet done
when the host reads it. Which kernel is taken is what ONNX Runtime decides for an H100.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENT = ROOT / "build" / "cuda-stand-in"
LIBRARIES = ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libcuda.so.1")
NOT_SUPPORTED = {"cublas": 15, "cu": 801, "__cuda": 801}
Run = Callable[..., Any]


@pytest.fixture(scope="session")
def environment() -> Path:
    """Directory of an environment with onnxruntime-gpu, without CUDA's libraries, and with this code."""
    made = ENVIRONMENT.relative_to(ROOT) / "installed"
    subprocess.run(["make", "--silent", "-C", str(ROOT), str(made), f"PYTHON={sys.executable}"], check=True)
    return ENVIRONMENT


@pytest.fixture(scope="session")
def libraries(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the stand-in: one library, by the names of all that the CUDA provider needs.

    What is not written here and the provider needs all the same fails when it is called, and is traced.
    """
    directory = tmp_path_factory.mktemp("cuda")
    provider = next(environment.rglob("libonnxruntime_providers_cuda.so"))
    sources = sorted(HERE.glob("*.c"))
    written = _compiled(environment, sources, directory / "written.so")
    missing = _symbols(provider, "--undefined-only") - _symbols(written, "--defined-only")
    rest = directory / "unsupported.c"
    rest.write_text("void stand_in_note(const char *format, ...);\n" + "".join(map(_unsupported, sorted(missing))))
    library = _compiled(environment, [*sources, rest], directory / LIBRARIES[0])
    for name in LIBRARIES[1:]:
        (directory / name).symlink_to(library.name)
    return directory


@pytest.fixture(scope="session")
def python(environment: Path, libraries: Path) -> Run:
    """`python(*arguments, **variables)`: a finished process of the environment, with these variables in its own."""

    def run(*arguments: Any, **variables: Any) -> subprocess.CompletedProcess[str]:
        settings = {name: str(value) for name, value in variables.items()}
        return subprocess.run(
            [environment / "bin" / "python", *map(str, arguments)],
            env={**os.environ, "LD_LIBRARY_PATH": str(libraries), **settings},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def on_stand_in(python: Run) -> Run:
    """`on_stand_in(program, *arguments, **variables)`: what a program of programs.py found."""

    def run(*arguments: Any, **variables: Any) -> Any:
        done = python(HERE / "programs.py", *arguments, **variables)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def with_half_precision_drafter(
    tiny_head: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], Path]:
    """`with_half_precision_drafter(bundle)`: a copy with a random drafter of one block in fp16."""
    from dovetail_ort_export.attach import attach_drafter

    def make(bundle: Path) -> Path:
        copy = tmp_path_factory.mktemp("half") / "bundle"
        shutil.copytree(bundle, copy)
        attach_drafter(copy, tiny_head(bundle, num_blocks=1), precision="fp16")
        return copy

    return make


@pytest.fixture(scope="session")
def drafting(tiny_bundle: Path, with_half_precision_drafter: Callable[[Path], Path]) -> Path:
    """`tiny_bundle` with such a drafter."""
    return with_half_precision_drafter(tiny_bundle)


@pytest.fixture(scope="session")
def writing_zeros(
    tiny_source: Callable[..., Path],
    with_half_precision_drafter: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A target that writes token 0 for ever, as the stand-in drafts, and such a drafter."""
    from dovetail_ort_export import ExportOptions, export_bundle

    source = tiny_source("llama")
    weights = load_file(source / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    # All positive and the same for all tokens but for their length: states point their way, and 0 is the longest.
    embedding[:] = 10 - np.arange(len(embedding), dtype=np.float32)[:, None] / 100
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    bundle = tmp_path_factory.mktemp("zeros") / "bundle"
    export_bundle(str(source), bundle, ExportOptions(precision="fp32"))
    return with_half_precision_drafter(bundle)


def _compiled(environment: Path, sources: list[Path], library: Path) -> Path:
    headers = environment / "headers" / "nvidia" / "cu13" / "include"
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    command = ["gcc", "-std=gnu11", "-O1", "-shared", "-fPIC", "-pthread", *warnings, f"-I{headers}", "-o", library]
    subprocess.run([*command, *sources], check=True)
    return library


def _symbols(library: Path, which: str) -> set[str]:
    """Names of CUDA's functions that a library needs or has."""
    lines = subprocess.run(["nm", "-D", which, library], check=True, capture_output=True, text=True).stdout.splitlines()
    names = {line.split()[-1].partition("@")[0] for line in lines}
    return {name for name in names if name.startswith(tuple(NOT_SUPPORTED))}


def _unsupported(name: str) -> str:
    status = next(status for prefix, status in NOT_SUPPORTED.items() if name.startswith(prefix))
    return f'int {name}(void) {{ stand_in_note("unsupported {name}"); return {status}; }}\n'
