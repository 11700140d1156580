"""Weights in blocks, and what a stock ONNX Runtime makes of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import helper

from dovetail_ort_export.quantization import scales
from dovetail_ort_export.quantization.blocks import (
    BLOCK_BITS,
    BLOCK_SIZES,
    BlockFormat,
    block_scales,
    quantize_blocks,
)

DEFAULT = BlockFormat()
FORMATS = {
    f"{bits} bits, blocks of {size}": BlockFormat(block_size=size, bits=bits)
    for bits in BLOCK_BITS
    for size in BLOCK_SIZES
}


def weights(form):
    """Matrices of one to three rows and blocks."""
    shapes = st.tuples(st.integers(1, 3), st.integers(1, 3).map(lambda blocks: blocks * form.block_size))
    return npst.arrays(np.float32, shapes, elements=st.floats(-1e4, 1e4, width=32) | st.just(0.0))


weights_and_formats = st.sampled_from(list(FORMATS.values())).flatmap(
    lambda form: st.tuples(weights(form), st.just(form))
)
TINY = np.finfo(np.float32).tiny


@pytest.fixture(scope="module")
def weight():
    """(40, 96) with blocks of very different sizes, one all zero, one with a single outlier."""
    weight = np.random.default_rng(0).normal(size=(40, 96)).astype(np.float32)
    weight *= np.repeat(np.float32(10.0) ** np.random.default_rng(1).integers(-4, 4, (40, 3)), 32, axis=1)
    weight[3, 32:64] = 0
    weight[5, 10] = 1e4
    return weight


def steps_of(weight, form=DEFAULT):
    """(N, K / block_size, block_size) float64, the signed steps that the two operators take the bytes for."""
    codes = quantize_blocks(weight, form)
    if form.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], form.block_size)
    return codes.astype(np.float64) - form.zero_point


def dequantised(weight, form=DEFAULT):
    """(N, K) float64."""
    return (steps_of(weight, form) * block_scales(weight, form).astype(np.float64)[..., None]).reshape(weight.shape)


@given(weights_and_formats)
def test_a_weight_is_off_by_half_a_step_at_most(drawn):
    weight, form = drawn
    scales = block_scales(weight, form).astype(np.float64)
    error = np.abs(dequantised(weight, form) - weight).reshape(*scales.shape, form.block_size)
    # Half a step, and the rounding of a quotient of up to 127 steps to float32: 127 * 2**-24 of a step.
    assert (error <= scales[..., None] * (0.5 + 127 * 2.0**-24)).all()


@given(weights_and_formats)
def test_the_steps_are_those_of_a_float64_computation(drawn):
    weight, form = drawn
    blocks = weight.astype(np.float64).reshape(len(weight), -1, form.block_size)
    exact = blocks / block_scales(weight, form).astype(np.float64)[..., None]
    steps = steps_of(weight, form)
    # Equal, but where float32 rounds a quotient to a half or across it.
    assert (np.abs(steps - exact) <= 0.5 + 127 * 2.0**-24).all()
    assert np.abs(steps).max() <= form.largest


@given(weights_and_formats)
def test_the_largest_of_a_block_takes_the_last_step(drawn):
    weight, form = drawn
    blocks = np.abs(weight.reshape(len(weight), -1, form.block_size))
    steps = np.abs(steps_of(weight, form))
    # A block so small that its scale would have no full precision is zero.
    full = blocks.max(axis=-1) / np.float32(form.largest) >= TINY
    assert (steps.max(axis=-1) == np.where(full, form.largest, 0)).all()


@pytest.mark.parametrize("size", [1e-45, 2e-43, 1e-39])
def test_a_block_of_vanishing_weights_becomes_zero(size):
    weight = np.full((1, 32), size, dtype=np.float32)
    assert weight.any()
    assert (dequantised(weight) == 0).all()


def test_a_large_weight_is_worked_on_in_portions_with_the_same_result(weight, monkeypatch):
    expected = quantize_blocks(weight, DEFAULT), block_scales(weight, DEFAULT)
    monkeypatch.setattr(scales, "PORTION_ROWS", 7)
    np.testing.assert_array_equal(quantize_blocks(weight, DEFAULT), expected[0])
    np.testing.assert_array_equal(block_scales(weight, DEFAULT), expected[1])


def test_a_block_of_zeros_stays_zero_with_a_scale_that_divides(weight):
    assert block_scales(weight, DEFAULT)[3, 1] == 1
    assert (quantize_blocks(weight, DEFAULT)[3, 1] == DEFAULT.zero_point).all()
    assert (dequantised(weight)[3, 32:64] == 0).all()


def test_a_block_knows_nothing_of_its_neighbours(weight):
    alone = np.ascontiguousarray(weight[5:6, 64:])
    np.testing.assert_array_equal(quantize_blocks(alone, DEFAULT)[0, 0], quantize_blocks(weight, DEFAULT)[5, 2])
    assert block_scales(alone, DEFAULT)[0, 0] == block_scales(weight, DEFAULT)[5, 2]


def test_shapes_and_types_are_those_of_the_operators(weight):
    assert (quantize_blocks(weight, DEFAULT).shape, quantize_blocks(weight, DEFAULT).dtype) == ((40, 3, 32), np.uint8)
    assert (block_scales(weight, DEFAULT).shape, block_scales(weight, DEFAULT).dtype) == ((40, 3), np.float32)


def run(node, inputs, initializers):
    """Output of one com.microsoft node."""
    given_inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    ]
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in initializers.items()]
    graph = helper.make_graph([node], "one", given_inputs, [result], constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def test_gather_block_quantized_reads_the_same_numbers(weight):
    node = helper.make_node(
        "GatherBlockQuantized",
        ["blocks", "ids", "scales"],
        ["y"],
        domain="com.microsoft",
        gather_axis=0,
        quantize_axis=2,
        block_size=DEFAULT.block_size,
        bits=8,
    )
    constants = {"blocks": quantize_blocks(weight, DEFAULT), "scales": block_scales(weight, DEFAULT)[..., None]}
    rows = run(node, {"ids": np.arange(40, dtype=np.int64)}, constants)
    # A step times a scale, rounded to float32 once.
    np.testing.assert_array_equal(rows.reshape(weight.shape), dequantised(weight).astype(np.float32))


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_mat_mul_n_bits_multiplies_by_the_same_numbers(form, rows):
    weight = np.random.default_rng(0).normal(size=(40, 3 * form.block_size)).astype(np.float32)
    width = weight.shape[1]
    node = helper.make_node(
        "MatMulNBits",
        ["x", "blocks", "scales"],
        ["y"],
        domain="com.microsoft",
        K=width,
        N=40,
        bits=form.bits,
        block_size=form.block_size,
        accuracy_level=4,
    )
    # Activations that 8 bits hold exactly: whole numbers, the largest of each block 127.
    x = np.random.default_rng(2).integers(-126, 127, (rows, width)).astype(np.float32)
    x[:, :: form.block_size] = 127
    y = run(node, {"x": x}, {"blocks": quantize_blocks(weight, form), "scales": block_scales(weight, form)})
    exact = x.astype(np.float64) @ dequantised(weight, form).T
    # The kernel adds up unsigned steps and takes off the zero point times the activations: two float32 terms a block,
    # of this size, in a sum of three.
    scales = block_scales(weight, form).astype(np.float64)
    by_block = np.abs(x.astype(np.float64)).reshape(rows, 3, form.block_size).sum(axis=-1)
    largest = form.zero_point * by_block @ scales.T
    assert (np.abs(y - exact) <= 4 * 2.0**-24 * largest).all()
