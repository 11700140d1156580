"""Rows of an embedding that is packed as a product reads it."""

from __future__ import annotations

import mmap

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from product_calls import FLOAT, INT64, factor_of_inputs, open_node, pack_codes, pack_factors, random_factors, run

from dovetail_ort_runtime import kernels


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (33, 63), (100, 576), (257, 130)])
@pytest.mark.parametrize("count", [1, 7, 40])
@pytest.mark.parametrize("has_groups", [False, True])
def test_an_embedding_is_its_codes_times_their_factor_and_scale(outputs, inputs, count, has_groups):
    random = np.random.default_rng([outputs, inputs, count])
    codes = random.integers(0, 256, (outputs, inputs)).astype(np.uint8)
    scales = random.uniform(0.001, 1, outputs).astype(np.float32)
    ids = random.integers(0, outputs, count)
    steps = codes.astype(np.float32) - np.float32(128)
    given = [INT64, pack_codes(codes), scales]
    if has_groups:
        factors = random_factors(random, outputs, inputs)
        steps *= factor_of_inputs(factors, inputs)
        given.append(pack_factors(factors))
    attributes = {"inputs": inputs, "bits": 8, "group": 64 if has_groups else 0}
    for threads in [1, 3]:
        (y,) = run(open_node("Embedding", given, ["y"], threads=threads, **attributes), ids)
        expected = steps[ids] * scales[ids, None]
        assert y.tobytes() == expected.tobytes()


INPUTS = 64
OUTPUTS = 2**25 + 96
"""With 64 inputs these are more than 2^31 codes."""


@pytest.fixture
def large_weight(tmp_path):
    """Two GB of codes, all 0 but those of the last outputs; the file has holes, so that it takes no room."""
    path = tmp_path / "weight.bin"
    with path.open("wb") as file:
        file.truncate(OUTPUTS * INPUTS)
    last = np.random.default_rng(1).integers(0, 256, (64, INPUTS)).astype(np.uint8)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[-64 * INPUTS :] = pack_codes(last).tobytes()
    return path, last


def open_large(path, name, data_type, attributes):
    shape = (OUTPUTS // 32, INPUTS // 4, 32, 4)
    weight = TensorProto(name="weight", data_type=TensorProto.UINT8, dims=shape, data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=path.name)
    weight.external_data.add(key="length", value=str(OUTPUTS * INPUTS))
    node = helper.make_node(name, ["x", "weight", "scales"], ["y"], domain=kernels.OPERATOR_DOMAIN)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    axes = ["rows"] if data_type == INT64 else ["rows", INPUTS]
    graph = helper.make_graph(
        [node],
        "large",
        [helper.make_tensor_value_info("x", data_type, axes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight, numpy_helper.from_array(np.ones(OUTPUTS, np.float32), "scales")],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(kernels.OPERATOR_DOMAIN, kernels.OPERATOR_VERSION)]
    model = path.with_name("model.onnx")
    model.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())
    options = ort.SessionOptions()
    kernels.register(options)
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


@pytest.mark.long
def test_an_embedding_reads_codes_beyond_2_to_the_31(large_weight):
    path, last = large_weight
    session = open_large(path, "Embedding", INT64, {"inputs": INPUTS, "bits": 8, "group": 0})
    (y,) = run(session, np.arange(OUTPUTS - 64, OUTPUTS))
    assert np.array_equal(y, last.astype(np.float32) - 128)


@pytest.mark.long
def test_a_product_reads_codes_beyond_2_to_the_31(large_weight):
    path, last = large_weight
    session = open_large(path, "Product", FLOAT, {"inputs": INPUTS, "block": 64, "bits": 8, "group": 0})
    x = np.full((2, INPUTS), 127, np.float32)  # integers as they are
    (y,) = run(session, x)
    expected = 127 * (last.astype(np.int64) - 128).sum(axis=1)
    assert np.array_equal(y[:, -64:], np.stack([expected, expected]))
    assert np.all(y[:, : OUTPUTS - 64] == -128 * 127 * INPUTS)
