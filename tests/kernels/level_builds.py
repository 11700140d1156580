"""Compiles sources of the kernels for one level, apart from the library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "runtime/dovetail_ort_runtime/kernels/source"

COMMON = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-Wall", "-Wextra", "-Werror")

AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma", "-mf16c")

LEVELS = {
    "portable": (),
    "avx2": AVX2,
    "avxvnni": (*AVX2, "-mavxvnni"),
    "avx512vnni": AVX512,
    "avx512amx": (*AVX512, "-mamx-tile", "-mamx-int8"),
    "neon": ("-march=armv8.2-a+dotprod+fp16",),
}
"""A level's flags, as CMakeLists.txt has them."""


def compiler():
    """The C++ compiler of this machine; None if there is none."""
    return shutil.which(os.environ.get("CXX", "c++"))


def compile_level(level, sources, output, /, *options, compiler):
    """Compile sources for a level, with headers of the kernels, into one output."""
    command = [compiler, *COMMON, *LEVELS[level], f"-DDOVETAIL_LEVEL={level}", f"-I{SOURCE}"]
    subprocess.run([*command, *options, *map(str, sources), "-o", str(output)], check=True)
    return output
