"""All levels, all modes of the caller's thread: the same bits."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import level_builds
import numpy as np
import pytest
import torch
from product_calls import FLOAT, ProductCase, open_node, run

from dovetail_ort_runtime import kernels


def run_with_level(level, *command):
    environment = os.environ | {"DOVETAIL_KERNELS": level}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


def test_all_levels_have_the_same_bits():
    program = Path(__file__).with_name("product_calls.py")
    hashes = {}
    for level in kernels.levels():
        done = run_with_level(level, program)
        assert done.returncode == 0, done.stderr
        used, hashes[level] = done.stdout.split()
        assert used == level
    assert "portable" in hashes
    assert len(set(hashes.values())) == 1, hashes


def test_levels_that_tests_compile_have_the_flags_of_the_library():
    text = (Path(__file__).parents[2] / "CMakeLists.txt").read_text()
    stated = {name: flags.strip('"').split() for name, flags in re.findall(r"set\(FLAGS_(\w+) (.*)\)", text)}

    def expanded(name):
        parts = [re.fullmatch(r"\$\{FLAGS_(\w+)\}", flag) for flag in stated[name]]
        return [
            inner
            for part, flag in zip(parts, stated[name], strict=True)
            for inner in ([flag] if part is None else expanded(part[1]))
        ]

    assert {name: expanded(name) for name in stated} == {
        name: list(flags) for name, flags in level_builds.LEVELS.items()
    }


def test_a_level_that_is_not_here_is_named_in_one_line():
    program = (
        "from dovetail_ort_runtime import kernels\ntry:\n kernels.level()\nexcept Exception as error:\n print(error)"
    )
    done = run_with_level("avx1024", "-c", program)
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done
    assert "DOVETAIL_KERNELS must be one of" in lines[0]
    assert "avx1024" in lines[0]
    assert "portable" in lines[0]


TINY = np.float32(1e-40)
"""A subnormal number."""


@pytest.fixture
def subnormal_calls():
    """Sessions and inputs whose outputs are subnormal numbers, so that a wrong mode shows."""
    case = ProductCase(inputs=100, outputs=33)
    rows, _ = case.rows(5)
    small = (np.float32(1e-36) * rows).astype(np.float32)
    weight = np.full(100, TINY, np.float32)
    norm = open_node("Norm", [FLOAT, weight, None], ["y"], epsilon=1e-5)
    with_residual = open_node("Norm", [FLOAT, np.ones(100, np.float32), FLOAT], ["y", "sum"], epsilon=1e-5)
    product = ProductCase(kind="normed", inputs=100, outputs=33, has_skip=True).open()
    return [(norm, rows), (with_residual, small, small * np.float32(1e-3)), (product, rows, rows[::-1].copy())]


def bits_of(calls):
    return [output.tobytes() for session, *values in calls for output in run(session, *values)]


def test_flush_to_zero_of_the_caller_changes_nothing(subnormal_calls):
    expected = bits_of(subnormal_calls)
    assert any(np.any((x != 0) & (np.abs(x) < 1e-38)) for x in map(floats, expected))
    assert torch.set_flush_denormal(True), "this processor cannot flush"
    try:
        found = bits_of(subnormal_calls)
        is_still_flushing = np.float32(np.array([TINY]) * np.float32(1))[0] == 0
    finally:
        torch.set_flush_denormal(False)
    assert found == expected
    assert is_still_flushing  # the caller has its mode back


def floats(data):
    return np.frombuffer(data, np.float32)


def test_flush_to_zero_of_onnxruntimes_threads_changes_nothing():
    weight = np.full(1000, TINY, np.float32)
    x = np.random.default_rng(1).standard_normal((64, 1000)).astype(np.float32)
    expected = run(open_node("Norm", [FLOAT, weight, None], ["y"], epsilon=1e-5), x)[0]
    session = open_node("Norm", [FLOAT, weight, None], ["y"], epsilon=1e-5, threads=3, denormal_as_zero=True)
    assert np.any((expected != 0) & (np.abs(expected) < 1e-38))
    assert run(session, x)[0].tobytes() == expected.tobytes()


ROUNDING = {
    "x86_64": {"upward": 0x800, "downward": 0x400, "toward zero": 0xC00},
    "aarch64": {"upward": 0x400000, "downward": 0x800000, "toward zero": 0xC00000},
}


@pytest.mark.parametrize("direction", ["upward", "downward", "toward zero"])
def test_rounding_of_the_caller_changes_nothing(direction):
    if sys.platform != "linux" or platform.machine() not in ROUNDING:
        pytest.skip("fesetround's numbers are known for Linux only")
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    mode = ROUNDING[platform.machine()][direction]
    kinds = ["plain", "silu", "gelu_tanh", "normed"]
    calls = []
    for kind in kinds:
        case = ProductCase(kind=kind, inputs=300, outputs=50, has_bias=True)
        calls.append((case.open(), case.rows(6)[0]))
    expected = bits_of(calls)
    library.fesetround(mode)
    try:
        found = bits_of(calls)
        mode_after = library.fegetround()
    finally:
        library.fesetround(0)
    assert found == expected
    assert mode_after == mode


@pytest.fixture(scope="module")
def object_of(tmp_path_factory):
    """`object_of(level, name)`: a source of the kernels as the build compiles it."""
    folder = tmp_path_factory.mktemp("objects")

    @functools.cache
    def compile_one(level, name):
        source = level_builds.SOURCE / f"{name}.cpp"
        target = folder / f"{level}_{name}.o"
        options = ["-c", '-DDOVETAIL_VERSION="0"']
        return level_builds.compile_level(level, [source], target, *options, compiler=level_builds.compiler())

    return compile_one


needs_compiler = pytest.mark.skipif(level_builds.compiler() is None, reason="there is no C++ compiler")


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX belongs to x86-64")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
def test_code_for_any_processor_has_no_avx_instruction(object_of):
    names = sorted(source.stem for source in level_builds.SOURCE.glob("*.cpp"))
    assert {"level", "dispatch", "scratch", "operators"} <= set(names)
    for name in names:
        assert not avx_lines(object_of("portable", name))
    assert avx_lines(object_of("avx2", "level"))  # the search finds what it looks for


def avx_lines(target):
    command = ["objdump", "-d", "--no-show-raw-insn", target]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = []
    for line in text.splitlines():
        _, _, instruction = line.partition(":\t")
        has_wide_register = "%ymm" in instruction or "%zmm" in instruction
        if has_wide_register or instruction.startswith("v"):
            found.append(line)
    return found


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
@pytest.mark.parametrize("level", kernels.levels())
def test_a_level_shares_no_code_with_others(level, object_of):
    # A symbol that two levels define would be taken from one of them by the linker, for both.
    command = ["nm", "--extern-only", "--defined-only", "--demangle", "--format=posix", object_of(level, "level")]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    names = [line.split()[0] for line in lines]
    # DW.ref.* is a pointer that every object has for the unwinder.
    assert [name for name in names if not name.startswith("DW.ref.")] == [f"dovetail::kernels_{level}"]
