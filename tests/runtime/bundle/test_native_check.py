"""Native nodes that do not go with their weights are refused on the bytes of the graph."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.graph_check import check_graph
from dovetail_ort_runtime.bundle.onnx_file import uses_native_operators
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import BundleError, BundleVersionError

onnx = pytest.importorskip("onnx", reason="graphs are written with onnx, which the [export] extra installs")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


@pytest.fixture
def graph(native_graphs):
    return native_graphs.target_graph()


@pytest.fixture
def check(tmp_path):
    def check(graph):
        return check_graph(graph.save(tmp_path / "model.onnx"), {})

    return check


def node_of(graph, operator):
    return next(node for node in graph.nodes if node.op_type == operator)


def set_attribute(graph, operator, name, value):
    node = node_of(graph, operator)
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not ...:
        node.attribute.append(helper.make_attribute(name, value))


def replace_weight(graph, name, array):
    place = next(index for index, tensor in enumerate(graph.weights) if tensor.name == name)
    graph.weights[place] = numpy_helper.from_array(array, name)


@pytest.mark.parametrize("cache", ["fp16", "fp32"])
def test_what_the_library_runs_passes(native_graphs, check, cache):
    for made in (native_graphs.target_graph(cache), native_graphs.drafter_graph(cache)):
        found = check(made)
        assert found.operators == kernels.OPERATOR_VERSION
        assert found.shapes["rotary.cos"] == (512, 8)


def test_a_graph_says_whether_it_has_native_operators(graph, tmp_path, tiny_bundle_fp32):
    assert uses_native_operators(graph.save(tmp_path / "model.onnx"))
    assert not uses_native_operators(tiny_bundle_fp32 / "model.onnx")
    (tmp_path / "none.onnx").write_bytes(b"\xff" * 100)
    assert not uses_native_operators(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("operator", "name", "value", "message"),
    [
        ("Product", "inputs", 128, r"whose weight has \(2, 16, 32, 4\) in format 2"),
        ("Product", "inputs", 0, "with inputs = 0, not 1 to"),
        ("Product", "inputs", -64, "with inputs = -64, not 1 to"),
        ("Product", "inputs", 1 << 62, "with inputs = 4611686018427387904, not 1 to"),
        ("Product", "inputs", 64.0, "with inputs = 64.0, which is not of its type"),
        ("Product", "inputs", ..., "without the attribute inputs"),
        ("Product", "inputs", [64], "an attribute 'inputs' that is no float, integer or text"),
        ("Product", "block", 16, "with block = 16, not 64 or 32"),
        ("Product", "bits", 2, "with bits = 2, not 8 or 4"),
        ("Product", "bits", 4, "with group = 64, not 32"),
        ("Embedding", "bits", 4, "with bits = 4, not 8"),
        ("Product", "group", 32, "with group = 32, not 0 or 64"),
        ("Product", "group", 0, "with group = 0 and with factors"),
        ("Product", "group", ..., "with group = 0 and with factors"),
        ("GatedProduct", "group", 0, "with group = 0 and with factors"),
        ("NormProduct", "group", 0, "with group = 0 and with factors"),
        ("Embedding", "group", 0, "with group = 0 and with factors"),
        ("Product", "fast", 1, "with an attribute 'fast'"),
        ("GatedProduct", "activation", "relu", "with activation = 'relu', not silu or gelu_tanh"),
        ("NormProduct", "epsilon", -1.0, "with epsilon = -1.0, no finite number of 0 or more"),
        ("NormProduct", "epsilon", float("nan"), "with epsilon = nan"),
        ("Norm", "epsilon", float("inf"), "with epsilon = inf"),
        ("Embedding", "inputs", 65, "Embedding whose weight has"),
        ("Attention", "num_heads", 3, "with 3 heads, no multiple of 2"),
        ("Attention", "num_heads", 65538, "with num_heads = 65538, not 1 to 65536"),
        ("Attention", "kv_num_heads", 1, "whose caches have the shapes"),
        ("Attention", "kv_num_heads", 8, "with kv_num_heads = 8, not 1 to 4"),
        ("Attention", "scale", float("nan"), "with scale = nan"),
        ("Attention", "window", -1, "with window = -1"),
        ("Attention", "soft_cap", -1.0, "with soft_cap = -1.0"),
    ],
)
def test_an_attribute_that_does_not_fit_is_refused_in_one_line(graph, check, operator, name, value, message):
    set_attribute(graph, operator, name, value)
    with pytest.raises(BundleError, match=message) as caught:
        check(graph)
    assert "\n" not in str(caught.value)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype=dtype)


def take_4_bits(graph):
    """The first block's Product (64, 64) in 4 bits."""
    for name, value in (("bits", 4), ("group", 32), ("block", 32)):
        set_attribute(graph, "Product", name, value)
    replace_weight(graph, "block.0.o.codes", zeros(2, 8, 32, 4, dtype=np.uint8))
    replace_weight(graph, "block.0.o.factors", zeros(2, 2, 2, 32, dtype=np.float16))


def test_a_product_in_4_bits_passes(graph, check):
    take_4_bits(graph)
    check(graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: set_attribute(graph, "Product", "block", 64), "with block = 64, not 32"),
        (lambda graph: set_attribute(graph, "Product", "bits", 8), "with group = 32, not 0 or 64"),
        (lambda graph: node_of(graph, "Product").input.pop(), "with bits = 4 and without factors"),
        (
            lambda graph: replace_weight(graph, "block.0.o.codes", zeros(2, 16, 32, 4, dtype=np.uint8)),
            r"whose weight has \(2, 16, 32, 4\)",
        ),
        (
            lambda graph: replace_weight(graph, "block.0.o.factors", zeros(2, 2, 32, dtype=np.float16)),
            r"whose factors has \(2, 2, 32\)",
        ),
    ],
)
def test_a_product_in_4_bits_that_does_not_fit_is_refused(graph, check, change, message):
    take_4_bits(graph)
    change(graph)
    with pytest.raises(BundleError, match=message) as caught:
        check(graph)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("block.0.o.codes", zeros(2, 16, 32, 3, dtype=np.uint8), "Product whose weight has"),
        ("block.0.o.codes", zeros(2 * 16 * 32 * 4, dtype=np.uint8), "Product whose weight has"),
        ("block.0.o.codes", zeros(2, 16, 32, 4, dtype=np.int8), r"whose weight has \(2, 16, 32, 4\) in format 3"),
        ("block.0.o.scales", zeros(0), r"whose scales have the shape \(0,\)"),
        ("block.0.o.scales", zeros(), r"whose scales have the shape \(\)"),
        ("block.0.o.scales", zeros(65), "Product whose weight has"),
        ("block.0.o.scales", zeros(64, dtype=np.float64), r"whose scales has \(64,\) in format 11"),
        ("block.0.o.factors", zeros(2, 2, 32, dtype=np.float16), r"Product whose factors has \(2, 2, 32\)"),
        ("block.0.o.factors", zeros(1, 1, 32, dtype=np.float16), r"Product whose factors has \(1, 1, 32\)"),
        ("block.0.o.factors", zeros(2, 1, 32), r"whose factors has \(2, 1, 32\) in format 1"),
        ("head.factors", zeros(11, 1, 32, dtype=np.float16), "Embedding whose factors has"),
        ("block.0.first_norm", zeros(63), "NormProduct whose norm_weight has"),
        ("final_norm", zeros(2, 32), "Norm whose weight has the shape"),
        ("rotary.cos", zeros(512, 9), "whose table cos has the shape"),
        ("rotary.sin", zeros(511, 8), r"whose sin has \(511, 8\)"),
    ],
)
def test_a_weight_that_does_not_fit_is_refused(graph, check, name, array, message):
    replace_weight(graph, name, array)
    with pytest.raises(BundleError, match=message):
        check(graph)


@pytest.mark.parametrize("operator", ["Product", "GatedProduct", "NormProduct", "Embedding"])
def test_groups_without_factors_are_refused(graph, check, operator):
    node_of(graph, operator).input.pop()
    with pytest.raises(BundleError, match=f"{operator} with group = 64 and without factors"):
        check(graph)


@pytest.mark.skipif(not kernels.is_available(), reason=f"native graphs: {kernels.why_missing()}")
def test_a_weight_without_groups_passes_and_is_opened_by_the_library(native_graphs, graph, check, tmp_path):
    for node in graph.nodes:
        if any(attribute.name == "group" for attribute in node.attribute):
            node.input.pop()
    for operator in {node.op_type for node in graph.nodes if node.op_type not in ("Norm", "Attention", "Gather")}:
        for node in (node for node in graph.nodes if node.op_type == operator):
            next(attribute for attribute in node.attribute if attribute.name == "group").i = 0
    check(graph)
    Target(tmp_path / "model.onnx", native_graphs.target_entry(), threads=1)


def test_a_weight_that_an_input_could_replace_is_refused(graph, check):
    graph.input("final_norm", [64], TensorProto.FLOAT)
    with pytest.raises(BundleError, match="Norm whose weight is no weight of the graph"):
        check(graph)


def test_a_weight_that_a_node_computes_is_refused(graph, check):
    graph.nodes.insert(0, helper.make_node("Identity", ["final_norm"], ["computed"]))
    node_of(graph, "Norm").input[1] = "computed"
    with pytest.raises(BundleError, match="Norm whose weight is no weight of the graph"):
        check(graph)


@pytest.mark.parametrize("part", ["inputs", "outputs"])
def test_too_many_inputs_or_outputs_are_refused(graph, check, part):
    getattr(node_of(graph, "Product"), part[:-1]).extend(["position_ids"] * 3)
    with pytest.raises(BundleError, match=f"Product of . {part}, and it takes"):
        check(graph)


@pytest.mark.parametrize(
    ("shape", "data_type"),
    [
        (["B", 2, "m", 16, 32], TensorProto.FLOAT16),
        (["B", 2, "m", 24, 64], TensorProto.FLOAT16),
        (["B", 2, "M", 16], TensorProto.FLOAT16),
        (["B", 2, "m", "D", 64], TensorProto.FLOAT16),
        (["B", 2, "m", 16, 64], TensorProto.INT8),
        (["B", 2, "m", 16, 64], TensorProto.FLOAT),
    ],
)
def test_caches_that_do_not_go_with_each_other_are_refused(graph, check, shape, data_type):
    name = "past_key_values.1.key"
    place = next(index for index, value in enumerate(graph.inputs) if value.name == name)
    graph.inputs[place] = helper.make_tensor_value_info(name, data_type, shape)
    with pytest.raises(BundleError, match="Attention whose caches have the shapes"):
        check(graph)


def test_an_operator_that_the_library_does_not_have_is_refused(graph, check):
    graph.add("Softmax", ["embedded"], ["soft"])
    with pytest.raises(BundleError, match="an operator 'Softmax', which this release's library does not have"):
        check(graph)


@pytest.mark.parametrize("version", [kernels.OPERATOR_VERSION + 1, 1 << 40])
def test_a_newer_version_of_the_operators_is_refused_with_the_way_out(graph, check, version):
    graph.opset_version = version
    with pytest.raises(BundleVersionError, match=f"of version 1 or older, got {version}; install the release"):
        check(graph)


def test_a_version_that_no_release_wrote_is_refused(graph, check):
    graph.opset_version = 0
    with pytest.raises(BundleError, match=r"dovetail\.native in version 0"):
        check(graph)


def test_native_nodes_without_their_version_are_refused(graph, tmp_path):
    path = graph.save(tmp_path / "model.onnx")
    model = onnx.load(path)
    del model.opset_import[1]
    onnx.save(model, path)
    with pytest.raises(BundleError, match=r"operators of dovetail\.native without their version"):
        check_graph(path, {})


ATTRIBUTES = (
    "inputs",
    "block",
    "bits",
    "group",
    "epsilon",
    "num_heads",
    "kv_num_heads",
    "scale",
    "window",
    "activation",
)


@given(
    st.sampled_from(["Product", "GatedProduct", "NormProduct", "Norm", "Embedding", "Attention"]),
    st.sampled_from(ATTRIBUTES),
    st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 200) | st.floats(width=32) | st.sampled_from(["silu", ""]),
)
@pytest.mark.skipif(not kernels.is_available(), reason=f"native graphs: {kernels.why_missing()}")
def test_what_passes_the_check_is_opened_by_the_library(native_graphs, tmp_path_factory, operator, name, value):
    graph = native_graphs.target_graph()
    set_attribute(graph, operator, name, value)
    path = graph.save(tmp_path_factory.getbasetemp() / "changed.onnx")
    try:
        check_graph(path, {})
    except BundleError:
        return
    Target(path, native_graphs.target_entry(), threads=1)
