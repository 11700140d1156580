"""The lanes: every level has the bits of the portable one, and those are the ones that IEEE 754 or float64 asks for."""

from __future__ import annotations

import functools
import shutil
import subprocess

import level_builds
import numpy as np
import pytest

from dovetail_ort_runtime import kernels

UNIT = 2.0**-24

RESULTS = [
    "add",
    "sub",
    "mul",
    "div",
    "fma",
    "root",
    "absolute",
    "select",
    "first_lanes",
    "maximum",
    "add_ints",
    "shift_left_23",
    "round",
    "sum",
    "largest",
    "total",
    "any",
    "exp2",
    "exp",
    "tanh",
    "half",
    "half_bits",
    "dot4",
    "nibbles",
    "first",
]

INTEGERS = {
    "first_lanes",
    "maximum",
    "add_ints",
    "shift_left_23",
    "largest",
    "total",
    "any",
    "dot4",
    "nibbles",
    "half_bits",
}

pytestmark = pytest.mark.skipif(level_builds.compiler() is None, reason="there is no C++ compiler")


def interesting_values():
    """Float32 of all kinds: bits at random, numbers of everyday sizes, halves and what lies between, edges."""
    random = np.random.default_rng(7)
    anything = random.integers(0, 1 << 32, 16 * 512, dtype=np.uint32).view(np.float32)
    everyday = (random.standard_normal(16 * 512) * 10.0 ** random.uniform(-3, 2, 16 * 512)).astype(np.float32)
    integers = random.integers(-1000, 1000, 16 * 64).astype(np.float32) / 2
    with np.errstate(all="ignore"):
        halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
        up = np.nextafter(halves, np.float32(np.inf))
    middle = (halves.view(np.uint32) + (1 << 12)).view(np.float32)
    edges = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-45,
        -1e-45,
        1e-39,
        65504,
        65519.996,
        65520,
        65536,
        127,
        128,
        -126,
        -127,
    ]
    values = [anything, everyday, integers, halves, up, middle, np.array(edges, np.float32)]
    return np.concatenate(values)


def run_program(level, folder, compiler, *runner):
    program = folder / f"lanes_{level}"
    source = level_builds.SOURCE.parents[3] / "tests/kernels/lanes_program.cpp"
    options = ("-static",) if runner else ()
    level_builds.compile_level(level, [source], program, *options, compiler=compiler)
    done = subprocess.run([*runner, program], input=interesting_values().tobytes(), stdout=subprocess.PIPE, check=True)
    words = np.frombuffer(done.stdout, np.uint32).reshape(-1, len(RESULTS), 16)
    return {name: words[:, i].reshape(-1) for i, name in enumerate(RESULTS)}


@pytest.fixture(scope="module")
def run_level(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lanes")
    return functools.cache(lambda level: run_program(level, folder, level_builds.compiler()))


@pytest.fixture(scope="module")
def portable(run_level):
    return run_level("portable")


def floats(words):
    return words.view(np.float32)


def same_bits_or_nan(found, expected):
    """Whether words are equal; any NaN equals any other."""
    return (found == expected) | (np.isnan(floats(found)) & np.isnan(floats(expected)))


def assert_levels_are_equal(found, expected):
    for name in RESULTS:
        if name in INTEGERS - {"nibbles"}:
            assert np.array_equal(found[name], expected[name]), name
        else:
            assert np.all(same_bits_or_nan(found[name], expected[name])), name


@pytest.mark.parametrize("level", [level for level in kernels.levels() if level != "portable"])
def test_a_level_has_the_bits_of_the_portable_one(level, run_level, portable):
    assert_levels_are_equal(run_level(level), portable)


@pytest.mark.parametrize("level", ["portable", "neon"])
def test_arm_has_the_bits_of_the_portable_level(level, tmp_path, portable):
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("g++-aarch64-linux-gnu and qemu-user are not installed")
    assert_levels_are_equal(run_program(level, tmp_path, compiler, emulator), portable)


@pytest.fixture(scope="module")
def values():
    return interesting_values()


def turned(values):
    return np.roll(values.reshape(-1, 16), -5, axis=1).reshape(-1)


def test_one_operation_rounds_once(portable, values):
    other = turned(values)
    with np.errstate(all="ignore"):
        expected = {
            "add": values + other,
            "sub": values - other,
            "mul": values * other,
            "div": values / other,
            "root": np.sqrt(values),
            "absolute": np.abs(values),
            "select": np.where(values < other, values, other),
        }
    for name, result in expected.items():
        assert np.all(same_bits_or_nan(portable[name], result.view(np.uint32))), name


def test_fma_rounds_once(portable, values):
    other = turned(values)
    with np.errstate(all="ignore"):
        exact = values.astype(np.longdouble) * other + values  # 64 bits: the product has 48
        expected = exact.astype(np.float32)
    found = floats(portable["fma"])
    finite = np.isfinite(expected)
    # Where the long double has no more bits than x87's, it rounds before float32 does: a tie may go to the other side.
    assert np.mean(found[finite] == expected[finite]) > 0.999
    spacing = np.spacing(np.abs(expected[finite]))
    assert np.all(np.abs(found[finite].astype(np.float64) - expected[finite]) <= spacing)


def test_halves_are_those_of_numpy(portable, values):
    with np.errstate(all="ignore"):
        expected = np.clip(values, -65504, 65504).astype(np.float16)
    found = portable["half_bits"].astype(np.uint16).view(np.float16)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(expected))
    assert np.array_equal(floats(portable["half"]), expected.astype(np.float32), equal_nan=True)


def test_integers_are_rounded_to_nearest_even(portable, values):
    with np.errstate(invalid="ignore"):
        small = np.where(np.abs(values) < 2**22, values, np.float32(0))
    assert np.array_equal(floats(portable["round"]), np.rint(small))


def test_the_sum_is_the_tree_of_8_4_2_1(portable, values):
    lanes = values.reshape(-1, 16)
    with np.errstate(all="ignore"):
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
    expected = np.repeat(lanes[:, 0], 16).view(np.uint32)
    assert np.all(same_bits_or_nan(portable["sum"], expected))


def test_dot4_is_exact(portable, values):
    codes = values.view(np.uint8).reshape(-1, 16, 4).astype(np.int64)
    activations = np.maximum(codes[:, :4, 1] - 128, -127)
    expected = ((codes - 128) * activations[:, None, :]).sum(axis=2)
    assert np.array_equal(portable["dot4"].view(np.int32).reshape(-1, 16), expected)


def test_parts_of_a_vector_are_loaded_and_stored(portable, values):
    expected = values.reshape(-1, 16).copy()
    expected[:, 7:] = 0
    assert np.array_equal(portable["first"], expected.reshape(-1).view(np.uint32))


@pytest.mark.parametrize(("name", "function"), [("exp2", np.exp2), ("exp", np.exp)])
def test_a_power_is_near_that_of_float64(name, function, portable, values):
    found = floats(portable[name]).astype(np.float64)
    with np.errstate(all="ignore"):
        exact = function(values.astype(np.float64))
    assert np.array_equal(np.isnan(found), np.isnan(values))
    # The fit is off by 0.05 units, its last fma by one half, the six before it by less; exp adds the reduction's two.
    normal = (exact >= 2.0**-125) & (exact <= 2.0**126)
    assert np.all(np.abs(found[normal] - exact[normal]) <= 3 * UNIT * exact[normal])
    assert np.all(found[exact < 2.0**-127] == 0)
    assert np.all(found[exact > 2.0**127.6] == np.inf)
    assert np.all(found[values == 0] == 1)


def test_tanh_is_near_that_of_float64(portable, values):
    found = floats(portable["tanh"]).astype(np.float64)
    with np.errstate(all="ignore"):
        exact = np.tanh(values.astype(np.float64))
    assert np.array_equal(np.isnan(found), np.isnan(values))
    real = ~np.isnan(values) & (np.abs(values) >= 2.0**-100)
    # Near 0 two roundings of the polynomial; elsewhere those of e^2x count by half at most, and the last three.
    assert np.all(np.abs(found[real] - exact[real]) <= 4 * UNIT * np.abs(exact[real]))
