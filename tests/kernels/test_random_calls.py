"""Random calls of all kernels: under the sanitizers, on another processor, and in ONNX Runtime with the sanitizers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import level_builds
import pytest

import dovetail_ort_runtime
from dovetail_ort_runtime import kernels

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SOURCE = level_builds.SOURCE
ARM = ("portable", "neon")
HERE_LEVELS = ARM if platform.machine() in ("aarch64", "arm64") else tuple(set(level_builds.LEVELS) - {"neon"})
SANITIZED = ("-O1", "-g", "-fno-sanitize-recover=all")
OPTIONS = {"ASAN_OPTIONS": "detect_stack_use_after_return=1", "TSAN_OPTIONS": "halt_on_error=1"}
ROUNDS = 40

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(level_builds.compiler() is None, reason="needs a C++ compiler"),
]


def run(*command, **environment):
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env={**os.environ, **OPTIONS, **environment}
    )
    assert result.returncode == 0, result.stderr[-5000:] + result.stdout[-1000:]
    return result.stdout


def build(folder, levels, *flags, compiler):
    """The program random_calls.cpp with these levels."""
    folder.mkdir()
    objects = []
    for level in levels:
        objects.append(folder / f"{level}.o")
        level_builds.compile_level(level, [SOURCE / "level.cpp"], objects[-1], "-c", *flags, compiler=compiler)
    sources = [HERE / "random_calls.cpp", SOURCE / "dispatch.cpp", SOURCE / "scratch.cpp", *objects]
    program = folder / "random_calls"
    level_builds.compile_level("portable", sources, program, "-pthread", *flags, compiler=compiler)
    return program


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_the_sanitizers_find_nothing_and_every_level_has_the_same_bits(tmp_path, sanitizer):
    flags = (*SANITIZED, f"-fsanitize={sanitizer}")
    program = build(tmp_path / "sanitized", HERE_LEVELS, *flags, compiler=level_builds.compiler())
    assert run(program, ROUNDS)


def test_processors_of_another_family_have_the_same_bits(tmp_path):
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("g++-aarch64-linux-gnu and qemu-user are not installed")
    here = build(tmp_path / "here", HERE_LEVELS, "-O2", compiler=level_builds.compiler())
    there = build(tmp_path / "there", ARM, "-O2", "-static", compiler=compiler)
    assert run(emulator, there, ROUNDS) == run(here, ROUNDS)


@pytest.mark.skipif(sys.platform != "linux", reason="preloads the sanitizer's library")
def test_the_operators_are_clean_in_onnx_runtime(tmp_path):
    """Tests of the operators, with a library that is built with the sanitizers."""
    compiler = level_builds.compiler()
    build = tmp_path / "build"
    flags = " ".join([*SANITIZED, "-fsanitize=address,undefined"])
    run("cmake", "-S", REPOSITORY, "-B", build, f"-DCMAKE_CXX_COMPILER={compiler}", f"-DCMAKE_CXX_FLAGS={flags}")
    run("cmake", "--build", build, "--parallel", "2")
    copy = tmp_path / "copy" / "dovetail_ort_runtime"
    shutil.copytree(
        Path(dovetail_ort_runtime.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__", "source", "*.so")
    )
    shutil.copy(build / kernels.library_path().name, copy / "kernels")
    libraries = [run(compiler, f"-print-file-name=lib{name}.so").strip() for name in ("asan", "ubsan", "stdc++")]
    # Python and ONNX Runtime keep memory until their end.
    environment = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(copy.parent), sysconfig.get_path("purelib")]),
    }
    # Without `site`, which would find an editable install first.
    python = (sys.executable, "-S", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", REPOSITORY / "pyproject.toml")
    tests = [HERE / f"test_{name}.py" for name in ("operators", "embedding", "norm", "product")]
    assert " passed" in run(*python, *tests, **environment)
