"""One operator in a graph of its own."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from dovetail_ort_runtime import kernels

DOMAIN = kernels.OPERATOR_DOMAIN
ELEMENT_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int64): TensorProto.INT64,
}


def pack_codes(codes):
    """Codes (N, K) uint8 as kernels.h lays them out: (ceil(N / 32), Kp / 4, 32, 4), filled up with 128."""
    outputs, inputs = codes.shape
    padded = np.full((-(-outputs // 32) * 32, -(-inputs // 64) * 64), 128, np.uint8)
    padded[:outputs, :inputs] = codes
    return np.ascontiguousarray(padded.reshape(len(padded) // 32, 32, -1, 4).transpose(0, 2, 1, 3))


def block_keys(keys):
    """Keys (B, Hkv, M, D) as the cache holds them: (B, Hkv, M / 64, D, 64)."""
    sequences, heads, slots, size = keys.shape
    return np.ascontiguousarray(keys.reshape(sequences, heads, slots // 64, 64, size).transpose(0, 1, 2, 4, 3))


def open_operator(name, inputs, constants, outputs, /, *, threads=1, version=1, **attributes):
    """A session of one node.

    Args:
        name: of the operator.
        inputs: dtype and rank by the input's name, or arrays of that type and rank, in the node's order; constants too
            have their place here, and None leaves an optional input out.
        constants: arrays by name, which become initializers.
        outputs: element type by name, in the node's order; None leaves one out.
        threads: of the session.
        version: of the operators, in the graph.
        attributes: of the node.
    """
    node = helper.make_node(
        name,
        [key if constants.get(key, value) is not None else "" for key, value in inputs.items()],
        [key if value is not None else "" for key, value in outputs.items()],
        domain=DOMAIN,
    )
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(key, ELEMENT_TYPES[np.asarray(value).dtype], [None] * np.asarray(value).ndim)
            for key, value in inputs.items()
            if value is not None and key not in constants
        ],
        [helper.make_tensor_value_info(key, value, None) for key, value in outputs.items() if value is not None],
        [numpy_helper.from_array(value, key) for key, value in constants.items() if value is not None],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, version)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    kernels.register(options)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture
def one_line_error():
    """`one_line_error(call, *words)`: the call must fail with a line of its own that has these words."""

    def check(call, *words):
        with pytest.raises(Exception, match=r"must") as caught:  # onnxruntime raises its own classes
            call()
        text = str(caught.value)
        assert "\n" not in text.strip()
        for word in words:
            assert word in text, text
        return text

    return check
