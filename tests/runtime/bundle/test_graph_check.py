"""Graphs of every kind that a bundle may not hold, written by onnx, which is the oracle of the reader too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_check import DOMAINS, LARGEST_GRAPH_BYTES, check_graph
from dovetail_ort_runtime.errors import BundleError

onnx = pytest.importorskip("onnx", reason="graphs are written with onnx, which the [export] extra installs")
from google.protobuf.message import DecodeError  # noqa: E402  # onnx brings it
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FILES = {"weights": 64}


def external(name="w", dims=(4,), data_type=TensorProto.FLOAT, **place):
    tensor = TensorProto(name=name, data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "weights", "offset": "0", "length": "16", **place}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def inline(dims, content=b"", name="w"):
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, raw_data=content)


def graph(*initializers, nodes=()):
    nodes = nodes or [helper.make_node("Identity", ["w"], ["y"])]
    return helper.make_graph(
        nodes, "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], initializers
    )


def model(*initializers, nodes=()):
    return helper.make_model(graph(*initializers, nodes=nodes), opset_imports=[helper.make_opsetid("", 18)])


def node(**attributes):
    made = helper.make_node("Constant", [], ["y"])
    made.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return made


def with_field(message, **fields):
    message.MergeFrom(type(message)(**fields))
    return message


@pytest.fixture
def check(tmp_path):
    def check(content):
        path = tmp_path / "model.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return check_graph(path, FILES)

    return check


@pytest.mark.parametrize(
    "name", ["tiny_bundle_both", "tiny_bundle_fp32", "tiny_drafting_bundle", "tiny_cut_bundle_native"]
)
def test_what_export_writes_passes_with_the_shapes_that_onnx_reads(name, request):
    bundle = Bundle(request.getfixturevalue(name))
    for path in bundle.directory.glob("*.onnx"):
        files = {entry.path: entry.num_bytes for entry in bundle.manifest.files}
        expected = {
            tensor.name: tuple(tensor.dims) for tensor in onnx.load(path, load_external_data=False).graph.initializer
        }
        found = check_graph(path, files)
        assert found.shapes == expected
        assert found.operators == bundle.manifest.operators().get(path.name)


def test_weights_inside_and_beside_the_graph_pass(check):
    constant = numpy_helper.from_array(np.arange(3), "c")
    graph = model(external(), inline([2], bytes(8), name="v"), external("half", (3,), TensorProto.INT4, length=2))
    graph.graph.node.append(node(value=constant))
    assert check(graph).shapes == {"w": (4,), "v": (2,), "half": (3,)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model(external(location="../weights")), r"'w' in '../weights', which is not among the bundle's files"),
        (model(external(location="/etc/passwd")), "'w' in '/etc/passwd'"),
        (model(external(location="*/_ORT_MEM_ADDR_/*")), "ORT_MEM_ADDR"),
        (model(external(location="")), "'w' in ''"),
        (model(external(location=None)), "'w' without one location, offset and length"),
        (model(external(length=None)), "'w' without one location, offset and length"),
        (model(external(offset="-16")), "'w' without one location, offset and length"),
        (model(external(offset="٣")), "'w' without one location, offset and length"),
        (model(external(checksum="x")), "'w' without one location, offset and length"),
        (model(TensorProto(name="w", data_location=1)), "'w' without one location, offset and length"),
        (model(external(offset=56)), "'w' at bytes 56 to 72 of weights, which has fewer"),
        (model(external(dims=(1 << 40,))), "'w' of 1099511627776 elements in 16 bytes of weights"),
        (model(external(dims=(-4,))), "'w' of 18446744073709551612 elements in 16 bytes"),
        (model(external(data_type=TensorProto.STRING)), "'w' of 4 elements in 16 bytes"),
        (model(inline([1 << 40])), "'w' of 1099511627776 elements in"),
        (model(inline([3, 1 << 30], bytes(12))), "elements in"),
        (model(external(), external()), "the weight 'w' twice"),
        (model(nodes=[node(value=external(location="x"))]), "'w' in 'x'"),
        (model(nodes=[node(values=[inline([1]), external(location="x")])]), "'w' in 'x'"),
        (model(nodes=[node(body=graph(external(location="x")))]), "the field g, which a flat graph does not need"),
        (model(nodes=[node(bodies=[graph()])]), "the field graphs"),
        (model(nodes=[node(value=onnx.SparseTensorProto(dims=[4]))]), "the field sparse_tensor"),
        (model(nodes=[helper.make_node("Run", [], ["y"], domain="ai.onnx.contrib")]), "operators of 'ai.onnx.contrib'"),
        (with_field(model(), opset_import=[helper.make_opsetid("my.ops", 1)]), "operators of 'my.ops'"),
        (with_field(model(), functions=[onnx.FunctionProto(name="f")]), "the field functions"),
        (with_field(model(), training_info=[onnx.TrainingInfoProto()]), "the field training_info"),
        (
            with_field(model(), graph=onnx.GraphProto(sparse_initializer=[onnx.SparseTensorProto(dims=[4])])),
            "the field sparse_initializer",
        ),
        # What protobuf merges, or reads over
        (model(external()).SerializeToString() * 2, "graph twice in one message"),
        (onnx.ModelProto(ir_version=8), "no graph"),
        (b"\x38\x01", "graph in the wire type 0"),
        (b"\x3b\x3c", "field 7 has the wire type 3"),
        (b"\x02\x00", "a field has the number 0"),
        (b"\x3a\x05ab", "field 7 ends beyond its message"),
        (b"\x08" + b"\xff" * 11, "an integer has more than 64 bits"),
        (b"\x08\x80", "an integer ends beyond its message"),
        (b"ORTM" * 4, "field 9 has the wire type 7"),
        (b"", "no graph"),
    ],
)
def test_what_could_reach_outside_or_take_memory_is_refused_in_one_line(check, content, message):
    with pytest.raises(BundleError, match=message) as caught:
        check(content)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("the graph model.onnx is refused: ")


def test_a_location_given_twice_is_refused(check):
    tensor = external()
    tensor.external_data.add(key="location", value="../weights")
    with pytest.raises(BundleError, match="'w' with the key 'location' twice"):
        check(model(tensor))


def test_a_graph_with_its_weights_inside_is_refused_unread(check):
    with pytest.raises(BundleError, match="weights belong in a file beside it"):
        check(bytes(LARGEST_GRAPH_BYTES + 1))


SEEDS = [
    model(external(), inline([2], bytes(8))),
    model(external(), nodes=[node(value=inline([1], bytes(4)), body=graph(external(location="x")))]),
    model(external(location="../weights")),
]


@given(
    st.sampled_from([seed.SerializeToString() for seed in SEEDS]),
    st.integers(0, 400),
    st.integers(0, 6),
    st.binary(max_size=6),
)
def test_what_is_let_through_holds_nothing_that_onnx_would_find_outside(
    tmp_path_factory, seed, start, length, inserted
):
    content = seed[:start] + inserted + seed[start + length :]
    path = tmp_path_factory.getbasetemp() / "changed.onnx"
    path.write_bytes(content)
    try:
        check_graph(path, FILES)
        found = onnx.ModelProto.FromString(content)
    except (BundleError, DecodeError):
        return
    assert not found.functions
    assert not found.graph.sparse_initializer
    tensors = list(found.graph.initializer)
    for made in found.graph.node:
        assert made.domain in DOMAINS
        for attribute in made.attribute:
            assert not attribute.HasField("g")
            assert not attribute.graphs
            tensors += [attribute.t, *attribute.tensors]
    for tensor in tensors:
        places = [entry.value for entry in tensor.external_data if entry.key == "location"]
        assert places == ["weights"] or (not places and tensor.data_location == TensorProto.DEFAULT)
