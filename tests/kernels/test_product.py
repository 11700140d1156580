"""Products: what float64 says of them, and that a row's bits depend on nothing but the row."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from product_calls import (
    FLOAT,
    UNIT,
    ProductCase,
    open_node,
    pack_codes,
    pack_factors,
    product_of_quantised,
    quantised,
    random_case,
    run,
)

KINDS = ["plain", "silu", "gelu_tanh", "normed"]


@pytest.mark.parametrize("seed", range(30))
def test_a_plain_product_is_that_of_its_integers(seed):
    random = np.random.default_rng(seed)
    case = random_case(random, kind="plain")
    rows, _ = case.rows(int(random.integers(1, 65)))
    (y,) = run(case.open(), rows)
    expected, bound = product_of_quantised(case, rows)
    assert y.shape == expected.shape
    assert np.all(np.abs(y - expected) <= bound)


@pytest.mark.parametrize("seed", range(30))
def test_a_product_in_4_bits_is_that_of_its_integers(seed):
    random = np.random.default_rng(seed)
    case = random_case(random, kind="plain", bits=4, block=32)
    rows, _ = case.rows(int(random.integers(1, 65)))
    (y,) = run(case.open(), rows)
    expected, bound = product_of_quantised(case, rows)
    assert y.shape == expected.shape
    assert np.all(np.abs(y - expected) <= bound)


def test_the_two_sums_of_a_block_in_4_bits_are_added_in_their_order():
    case = ProductCase(inputs=100, outputs=70, block=32, bits=4, seed=6)
    rows, _ = case.rows(3)
    codes, scales, _, _ = case.weights()
    padded = np.zeros((70, 128), np.int64)
    padded[:, :100] = codes
    integers, block_scales = quantised(rows, 32)
    steps, minima = (part.astype(np.float32) for part in case.steps())
    expected = np.zeros((3, 70), np.float32)
    for block in range(4):
        inputs = slice(32 * block, 32 * block + 32)
        scale = block_scales[:, block, None]
        dots = (integers[:, inputs] @ padded[:, inputs].T).astype(np.float32)
        offset = integers[:, inputs].sum(axis=1, keepdims=True).astype(np.float32) * scale
        expected = fma(dots, scale * steps[:, block], expected)
        expected = fma(offset, minima[:, block], expected)
    (y,) = run(case.open(), rows)
    assert y.tobytes() == (expected * scales).tobytes()


def fma(a, b, c):
    """a * b + c of float32 with one rounding."""
    values = np.broadcast_arrays(a, b, c)
    terms = zip(*(map(Fraction, value.astype(float).flat) for value in values), strict=True)
    return np.array([nearest(x * y + z) for x, y, z in terms], np.float32).reshape(values[0].shape)


def nearest(exact):
    """The float32 nearest to a fraction; of two, the even one."""
    near = np.float32(float(exact))
    candidates = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(candidates, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) % 2))


@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_factors_of_1_change_no_bit(block, rows):
    case = ProductCase(inputs=300, outputs=70, block=block, has_bias=True, seed=4)
    codes, scales, bias, _ = case.weights()
    x, _ = case.rows(rows)
    ones = pack_factors(np.ones((70, 5), np.float16))
    inputs = [FLOAT, pack_codes(codes), scales, bias, ones]
    (y,) = run(open_node("Product", inputs, ["y"], inputs=300, block=block, group=64), x)
    assert y.tobytes() == run(case.open(), x)[0].tobytes()


@pytest.mark.parametrize("block", [32, 64])
def test_a_block_of_inputs_costs_half_a_step_of_its_scale(block):
    case = ProductCase(inputs=300, outputs=70, block=block, seed=3)
    rows, _ = case.rows(9)
    (y,) = run(case.open(), rows)
    codes, scales, _, _ = case.weights()
    weight = (codes.astype(np.float64) - 128) * scales[:, None].astype(np.float64)
    padded = np.zeros((9, 320))
    padded[:, :300] = rows
    # Half a step of rounding, and 127 roundings of 2^-24 of a step each in a * (127 / m).
    step = np.abs(padded.reshape(9, -1, block)).max(axis=2) / 127 * (0.5 + 127 * 4 * UNIT)
    bound = np.repeat(step, block, axis=1)[:, :300] @ np.abs(weight).T
    bound += 16 * UNIT * (np.abs(rows) @ np.abs(weight).T)
    error = np.abs(y - rows.astype(np.float64) @ weight.T)
    assert np.all(error <= bound)
    assert error.max() > 0  # integers, not the float values themselves


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("has_skip", [False, True])
def test_a_norm_product_has_the_bits_of_a_norm_and_a_product(seed, has_skip):
    case = random_case(np.random.default_rng(seed), kind="normed", has_skip=has_skip)
    rows, skip = case.rows(11)
    norm_weight = case.weights()[3]
    inputs = [FLOAT, norm_weight, FLOAT if has_skip else None]
    normed, total = run(open_node("Norm", inputs, ["y", "sum"], epsilon=case.epsilon), rows, skip)
    (expected,) = run(ProductCase.open(plain(case)), normed)
    y, sum_of_product = run(case.open(), rows, skip)
    assert y.tobytes() == expected.tobytes()
    assert sum_of_product.tobytes() == total.tobytes()


def plain(case):
    """The same weights without the norm before them."""
    return ProductCase(
        inputs=case.inputs,
        outputs=case.outputs,
        block=case.block,
        has_bias=case.has_bias,
        has_groups=case.has_groups,
        seed=case.seed,
    )


def silu(gate):
    with np.errstate(over="ignore"):
        return gate / (1 + np.exp(-gate))


def gelu_tanh(gate):
    return gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))


@pytest.mark.parametrize("activation", [silu, gelu_tanh])
def test_a_gated_value_is_near_that_of_float64(activation):
    # A block with one value that is not zero keeps it: the integer is 127, the weight is 1.
    blocks = 512
    random = np.random.default_rng(5)
    gates = np.concatenate([random.uniform(-100, 100, blocks // 2), random.uniform(-2, 2, blocks // 2)]).astype(
        np.float32
    )
    up = random.uniform(1, 2, blocks).astype(np.float32)
    x = np.zeros((1, 2 * 64 * blocks), np.float32)
    x[0, : 64 * blocks : 64] = gates
    x[0, 64 * blocks :: 64] = up
    codes = np.full((blocks, 64 * blocks), 128, np.uint8)
    codes[np.arange(blocks), 64 * np.arange(blocks)] = 129
    inputs = [FLOAT, pack_codes(codes), np.ones(blocks, np.float32), None]
    attributes = {"inputs": 64 * blocks, "block": 64, "bits": 8, "group": 0}
    (y,) = run(open_node("GatedProduct", inputs, ["y"], activation=activation.__name__, **attributes), x)
    gates = gates.astype(np.float64)
    # About ten roundings: of the exponential, of 1 + e, of the quotient, of the product with up, of the scale and its
    # return. tanh is off by some roundings of 1, so there the whole gate counts, not what is left of it.
    size = np.abs(gates) if activation is gelu_tanh else np.abs(silu(gates))
    bound = 16 * UNIT * size * up + 2.0**-100
    assert np.all(np.abs(y[0] - activation(gates) * up) <= bound)


@pytest.mark.parametrize("activation", [silu, gelu_tanh])
def test_a_gated_product_is_near_that_of_float64(activation):
    case = ProductCase(kind=activation.__name__, inputs=203, outputs=45, has_bias=True, seed=9)
    rows, _ = case.rows(7)
    (y,) = run(case.open(), rows)
    codes, scales, bias, _ = case.weights()
    gate, up = rows[:, :203].astype(np.float64), rows[:, 203:].astype(np.float64)
    values = np.zeros((7, 256))
    values[:, :203] = activation(gate) * up
    weight = (codes.astype(np.float64) - 128) * scales[:, None].astype(np.float64)
    # Half a step of a block's scale for each input; a hundredth of that for all roundings of float32.
    step = np.abs(values.reshape(7, -1, 64)).max(axis=2) / 127
    bound = 0.51 * np.repeat(step, 64, axis=1)[:, :203] @ np.abs(weight).T
    assert np.all(np.abs(y - (values[:, :203] @ weight.T + bias)) <= bound + 4 * UNIT * np.abs(bias))


WEIGHTS = {
    "8 bits": {"block": 64},
    "8 bits, fine blocks": {"block": 32},
    "8 bits, groups": {"block": 64, "has_groups": True},
    "8 bits, groups, fine blocks": {"block": 32, "has_groups": True},
    "4 bits": {"block": 32, "bits": 4},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(kind, weight):
    random = np.random.default_rng(KINDS.index(kind))
    sizes = {"inputs": 333, "outputs": 77, **WEIGHTS[weight]}
    case = ProductCase(kind=kind, has_bias=True, has_skip=True, **sizes)
    session = case.open()
    rows, skip = case.rows(64)
    alone = [run(session, rows[i : i + 1], None if skip is None else skip[i : i + 1]) for i in range(64)]
    for count in [*range(1, 20), 24, 31, 48, 64]:
        chosen = random.permutation(64)[:count]
        together = run(session, rows[chosen], None if skip is None else skip[chosen])
        for at, row in enumerate(chosen):
            for output, expected in zip(together, alone[row], strict=True):
                assert output[at].tobytes() == expected[0].tobytes()


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it_where_a_matrix_unit_pays(weight):
    case = ProductCase(kind="normed", inputs=2100, outputs=77, has_bias=True, **WEIGHTS[weight])
    session = case.open()
    rows, _ = case.rows(64)
    alone = [run(session, rows[i : i + 1])[0] for i in range(64)]
    for count in [*range(6, 20), 31, 33, 48, 64]:
        (y, _) = run(session, rows[:count])
        for i in range(count):
            assert y[i].tobytes() == alone[i][0].tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", ["8 bits, groups", "4 bits"])
def test_bits_do_not_depend_on_the_number_of_threads(kind, weight):
    # Enough values for rows to be shared out, and more slabs than items.
    case = ProductCase(kind=kind, inputs=1100, outputs=1700, has_skip=True, **WEIGHTS[weight])
    rows, skip = case.rows(19)
    expected = run(case.open(threads=1), rows, skip)
    for threads in [2, 3, 8]:
        outputs = run(case.open(threads=threads), rows, skip)
        assert [output.tobytes() for output in outputs] == [output.tobytes() for output in expected]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("weight", ["8 bits", "4 bits"])
def test_what_is_not_finite_gives_nan_in_its_row_and_touches_no_other(kind, value, weight):
    case = ProductCase(kind=kind, inputs=150, outputs=40, has_bias=True, **WEIGHTS[weight])
    session = case.open()
    rows, _ = case.rows(13)
    (expected, *_) = run(session, rows)
    rows[7, 140] = value
    (y, *_) = run(session, rows)
    assert np.isnan(y[7]).all()
    others = np.arange(13) != 7
    assert y[others].tobytes() == expected[others].tobytes()


def test_a_block_of_very_small_values_is_zero():
    case = ProductCase(inputs=128, outputs=5, has_bias=True)
    rows = np.full((2, 128), 2.0**-101, np.float32)
    rows[1, 64:] = 2.0**-100
    (y,) = run(case.open(), rows)
    _, _, bias, _ = case.weights()
    expected, bound = product_of_quantised(case, rows)
    assert y[0].tobytes() == bias.tobytes()
    assert np.all(np.abs(y - expected) <= bound)


def test_values_near_the_largest_float_are_quantised():
    case = ProductCase(inputs=64, outputs=3)
    rows = np.full((1, 64), np.finfo(np.float32).max, np.float32)
    rows[0, ::2] *= -1
    (y,) = run(case.open(), rows)
    codes, scales, _, _ = case.weights()
    # m / 127 times 127 rounds back to a finite number; the sum of the codes is small beside 2^7.
    exact = ((codes.astype(np.float64) - 128) * rows[0].astype(np.float64)).sum(axis=1) * scales
    finite = np.abs(exact / scales) < np.finfo(np.float32).max
    np.testing.assert_allclose(y[0][finite], exact[finite], rtol=8 * UNIT)
    assert np.isinf(y[0][~finite]).all()


def test_no_rows_give_no_rows():
    case = ProductCase(inputs=64, outputs=3)
    (y,) = run(case.open(), np.zeros((0, 64), np.float32))
    assert y.shape == (0, 3)
