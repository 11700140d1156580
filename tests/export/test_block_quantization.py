import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import helper

from dovetail_ort_export import block_quantization
from dovetail_ort_export.block_quantization import BLOCK_SIZE, ZERO_POINT, block_scales, quantize_blocks

weights = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 3).map(lambda blocks: blocks * BLOCK_SIZE)),
    elements=st.floats(-1e4, 1e4, width=32) | st.just(0.0),
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


def dequantised(weight):
    """(N, K) float64: what the two operators take the bytes for."""
    steps = quantize_blocks(weight).astype(np.float64) - ZERO_POINT
    return (steps * block_scales(weight).astype(np.float64)[..., None]).reshape(weight.shape)


@given(weights)
def test_a_weight_is_off_by_half_a_step_at_most(weight):
    scales = block_scales(weight).astype(np.float64)
    error = np.abs(dequantised(weight) - weight).reshape(*scales.shape, BLOCK_SIZE)
    # Half a step, and the rounding of a quotient of up to 127 steps to float32: 127 * 2**-24 of a step.
    assert (error <= scales[..., None] * (0.5 + 127 * 2.0**-24)).all()


@given(weights)
def test_the_steps_are_those_of_a_float64_computation(weight):
    blocks = weight.astype(np.float64).reshape(len(weight), -1, BLOCK_SIZE)
    exact = blocks / block_scales(weight).astype(np.float64)[..., None]
    steps = quantize_blocks(weight).astype(np.float64) - ZERO_POINT
    # Equal, but where float32 rounds a quotient to a half or across it.
    assert (np.abs(steps - exact) <= 0.5 + 127 * 2.0**-24).all()
    assert np.abs(steps).max() <= 127


@given(weights)
def test_the_largest_of_a_block_takes_the_last_step(weight):
    blocks = np.abs(weight.reshape(len(weight), -1, BLOCK_SIZE))
    steps = np.abs(quantize_blocks(weight).astype(int) - ZERO_POINT)
    # A block so small that its scale would have no full precision is zero.
    assert (steps.max(axis=-1) == np.where(blocks.max(axis=-1) / np.float32(127) >= TINY, 127, 0)).all()


@pytest.mark.parametrize("size", [1e-45, 2e-43, 1e-39])
def test_a_block_of_vanishing_weights_becomes_zero(size):
    weight = np.full((1, 32), size, dtype=np.float32)
    assert weight.any()
    assert (dequantised(weight) == 0).all()


def test_a_large_weight_is_worked_on_in_portions_with_the_same_result(weight, monkeypatch):
    expected = quantize_blocks(weight), block_scales(weight)
    monkeypatch.setattr(block_quantization, "_PORTION_ROWS", 7)
    np.testing.assert_array_equal(quantize_blocks(weight), expected[0])
    np.testing.assert_array_equal(block_scales(weight), expected[1])


def test_a_block_of_zeros_stays_zero_with_a_scale_that_divides(weight):
    assert block_scales(weight)[3, 1] == 1
    assert (quantize_blocks(weight)[3, 1] == ZERO_POINT).all()
    assert (dequantised(weight)[3, 32:64] == 0).all()


def test_a_block_knows_nothing_of_its_neighbours(weight):
    alone = np.ascontiguousarray(weight[5:6, 64:])
    np.testing.assert_array_equal(quantize_blocks(alone)[0, 0], quantize_blocks(weight)[5, 2])
    assert block_scales(alone)[0, 0] == block_scales(weight)[5, 2]


def test_shapes_and_types_are_those_of_the_operators(weight):
    assert (quantize_blocks(weight).shape, quantize_blocks(weight).dtype) == ((40, 3, 32), np.uint8)
    assert (block_scales(weight).shape, block_scales(weight).dtype) == ((40, 3), np.float32)


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
        block_size=BLOCK_SIZE,
        bits=8,
    )
    constants = {"blocks": quantize_blocks(weight), "scales": block_scales(weight)[..., None]}
    rows = run(node, {"ids": np.arange(40, dtype=np.int64)}, constants)
    # A step times a scale, rounded to float32 once.
    np.testing.assert_array_equal(rows.reshape(weight.shape), dequantised(weight).astype(np.float32))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_mat_mul_n_bits_multiplies_by_the_same_numbers(weight, rows):
    node = helper.make_node(
        "MatMulNBits",
        ["x", "blocks", "scales"],
        ["y"],
        domain="com.microsoft",
        K=96,
        N=40,
        bits=8,
        block_size=BLOCK_SIZE,
        accuracy_level=4,
    )
    # Activations that 8 bits hold exactly: whole numbers, the largest of each block 127.
    x = np.random.default_rng(2).integers(-126, 127, (rows, 96)).astype(np.float32)
    x[:, ::BLOCK_SIZE] = 127
    y = run(node, {"x": x}, {"blocks": quantize_blocks(weight), "scales": block_scales(weight)})
    exact = x.astype(np.float64) @ dequantised(weight).T
    # The kernel adds up unsigned steps and takes off 128 times the activations: two float32 terms a block, of this
    # size, in a sum of three.
    scales = block_scales(weight).astype(np.float64)
    largest = 128 * np.abs(x.astype(np.float64)).reshape(rows, 3, BLOCK_SIZE).sum(axis=-1) @ scales.T
    assert (np.abs(y - exact) <= 4 * 2.0**-24 * largest).all()
