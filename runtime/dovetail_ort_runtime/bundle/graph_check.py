"""What a bundle's graph may hold, checked on the bytes of the ONNX file before ONNX Runtime sees them.

A bundle's graph is flat: nodes of ONNX, of ONNX Runtime and of this project, and weights in files of the bundle. So
functions, subgraphs, sparse weights and operators of other domains are refused. It knows no manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dovetail_ort_runtime.bundle.native_check import Attribute, GraphTensors, NativeNode, TensorType, check_node
from dovetail_ort_runtime.bundle.onnx_file import (
    ATTRIBUTE,
    DIMENSION,
    GRAPH,
    MODEL,
    NATIVE_ATTRIBUTE,
    NODE,
    OPSET,
    SHAPE,
    TENSOR,
    TENSOR_TYPE,
    TYPE,
    VALUE_INFO,
    ExternalPlace,
    ProtobufMessage,
    external_place,
)
from dovetail_ort_runtime.errors import BundleError, BundleVersionError
from dovetail_ort_runtime.kernels import OPERATOR_DOMAIN, OPERATOR_VERSION

DOMAINS: Final = ("", "ai.onnx", "com.microsoft", OPERATOR_DOMAIN)
# Enough for nodes and names: weights are in files of their own.
LARGEST_GRAPH_BYTES: Final = 16 << 20
# No number format puts more elements into a byte, an encoded integer or the two bytes of an empty string.
_ELEMENTS_PER_BYTE: Final = 4
_BITS_BY_DATA_TYPE: Final = {
    **dict.fromkeys((1, 6, 12), 32),  # float, int32, uint32
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),  # uint8, int8, bool, the float8s
    **dict.fromkeys((4, 5, 10, 16), 16),  # uint16, int16, float16, bfloat16
    **dict.fromkeys((7, 11, 13, 14), 64),  # int64, double, uint64, complex64
    **dict.fromkeys((21, 22, 23), 4),  # uint4, int4, float4
    **dict.fromkeys((25, 26), 2),  # uint2, int2
}
_SUBGRAPHS: Final = ("g", "graphs", "sparse_tensor", "sparse_tensors")
# Types of an attribute that a native node may have, by the numbers in onnx.proto.
_KINDS: Final = {1: "f", 2: "i", 3: "s"}
_NO_NUMBER: Final = -1  # length of a dimension that has only a name


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedGraph:
    """What is known of a graph that was checked.

    Attributes:
        shapes: shapes of the weights by name.
        operators: version of this project's own operators, or None if the graph has none.
    """

    shapes: Mapping[str, tuple[int, ...]]
    operators: int | None


def check_graph(path: Path, file_bytes: Mapping[str, int]) -> CheckedGraph:
    """Refuse a graph that could reach outside its bundle, or take memory that its files do not account for.

    Args:
        path: path of the ONNX file.
        file_bytes: size in bytes of every file that may hold weights, by the location that the graph gives.

    Raises:
        BundleError: the file is no graph, or one that a bundle must not have.
        BundleVersionError: the graph has native operators of a version that this release does not have.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_GRAPH_BYTES + 1)
        if len(content) > LARGEST_GRAPH_BYTES:
            raise ValueError(f"more than {LARGEST_GRAPH_BYTES} bytes, but weights belong in a file beside it")
        return _check_model(memoryview(content), file_bytes)
    except BundleVersionError:
        raise
    except ValueError as error:
        raise BundleError(f"the graph {path.name} is refused: {error}; do not use this bundle") from None


def _check_model(message: memoryview, file_bytes: Mapping[str, int]) -> CheckedGraph:
    model = ProtobufMessage(message, MODEL)
    _forbid(model, "training_info", "functions")
    operators = _native_version([ProtobufMessage(opset, OPSET) for opset in model.messages("opset_import")])
    graph = ProtobufMessage(model.message("graph"), GRAPH)
    _forbid(graph, "sparse_initializer")
    weights = _checked_weights(graph.messages("initializer"), file_bytes)
    if operators is None:
        tensors = None
    else:
        inputs = dict(_input_type(value) for value in graph.messages("input"))
        tensors = GraphTensors(weights=weights, inputs=inputs)
    for node in graph.messages("node"):
        _check_node(ProtobufMessage(node, NODE), file_bytes, tensors)
    return CheckedGraph(shapes={name: found.shape for name, found in weights.items()}, operators=operators)


def _forbid(message: ProtobufMessage, *names: str) -> None:
    for name in names:
        if name in message.names():
            raise ValueError(f"the field {name}, which a flat graph does not need")


def _native_version(opsets: list[ProtobufMessage]) -> int | None:
    versions = []
    for opset in opsets:
        _check_domain(opset.text("domain"))
        if opset.text("domain") == OPERATOR_DOMAIN:
            versions.append(opset.integer("version"))
    if not versions:
        return None
    if len(versions) > 1:
        raise ValueError(f"{OPERATOR_DOMAIN} in {len(versions)} versions")
    version = versions[0]
    if version < 1:
        raise ValueError(f"{OPERATOR_DOMAIN} in version {version}")
    if version > OPERATOR_VERSION:
        raise BundleVersionError(
            f"native operators must be of version {OPERATOR_VERSION} or older, got {version}; "
            "install the release of dovetail-ort that wrote the bundle, or a newer one"
        )
    return version


def _check_domain(domain: str) -> None:
    if domain not in DOMAINS:
        raise ValueError(f"operators of {domain!r}; only those of ONNX, of com.microsoft and of {OPERATOR_DOMAIN} run")


def _checked_weights(tensors: Iterable[memoryview], file_bytes: Mapping[str, int]) -> dict[str, TensorType]:
    """Types of the weights by name."""
    weights: dict[str, TensorType] = {}
    for tensor in tensors:
        name, found = _check_tensor(tensor, file_bytes)
        if name in weights:
            raise ValueError(f"the weight {name!r} twice")
        weights[name] = found
    return weights


def _check_node(node: ProtobufMessage, file_bytes: Mapping[str, int], tensors: GraphTensors | None) -> None:
    """Refuse a node that a bundle must not have; `tensors` is None in a graph without native operators."""
    domain = node.text("domain")
    _check_domain(domain)
    if domain == OPERATOR_DOMAIN:
        if tensors is None:
            raise ValueError(f"operators of {OPERATOR_DOMAIN} without their version")
        check_node(_native_node(node), tensors)
        return
    for attribute in node.messages("attribute"):
        fields = ProtobufMessage(attribute, ATTRIBUTE)
        _forbid(fields, *_SUBGRAPHS)
        for tensor in (*fields.messages("t"), *fields.messages("tensors")):
            _check_tensor(tensor, file_bytes)


def _native_node(node: ProtobufMessage) -> NativeNode:
    attributes: dict[str, Attribute] = {}
    for message in node.messages("attribute"):
        fields = ProtobufMessage(message, NATIVE_ATTRIBUTE)
        _forbid(fields, *_SUBGRAPHS)
        name = fields.text("name")
        value = _value(fields)
        if name in attributes:
            raise ValueError(f"the attribute {name!r} twice")
        attributes[name] = value
    return NativeNode(
        operator=node.text("op_type"), inputs=node.texts("input"), outputs=node.texts("output"), attributes=attributes
    )


def _value(attribute: ProtobufMessage) -> Attribute:
    """The float, integer or text of an attribute whose type says the same."""
    kind = _KINDS.get(attribute.integer("kind"))
    # A message may leave out a field that has its default value.
    if kind is None or not attribute.names() <= {"name", "kind", kind}:
        raise ValueError(f"an attribute {attribute.text('name')!r} that is no float, integer or text")
    if kind == "f":
        return attribute.number("f")
    if kind == "s":
        return attribute.text("s")
    return attribute.signed_integer("i")


def _input_type(message: memoryview) -> tuple[str, TensorType]:
    """Name and type of what a caller gives."""
    value = ProtobufMessage(message, VALUE_INFO)
    tensor = ProtobufMessage(ProtobufMessage(value.message("type"), TYPE).message("tensor_type"), TENSOR_TYPE)
    dimensions = ProtobufMessage(tensor.message("shape"), SHAPE).messages("dim")
    shape = tuple(_length(ProtobufMessage(dimension, DIMENSION)) for dimension in dimensions)
    return value.text("name"), TensorType(data_type=tensor.integer("elem_type"), shape=shape)


def _length(dimension: ProtobufMessage) -> int:
    return dimension.integer("dim_value") if "dim_value" in dimension.names() else _NO_NUMBER


def _check_tensor(message: memoryview, file_bytes: Mapping[str, int]) -> tuple[str, TensorType]:
    """Name and type of a tensor whose bytes are there."""
    tensor = ProtobufMessage(message, TENSOR)
    name = tensor.text("name")
    found = TensorType(data_type=tensor.integer("data_type"), shape=tuple(tensor.integers("dims")))
    place = external_place(tensor)
    if place is not None:
        _check_place(name, found, place, file_bytes)
    elif math.prod(found.shape) > len(message) * _ELEMENTS_PER_BYTE:
        raise ValueError(f"{name!r} of {math.prod(found.shape)} elements in {len(message)} bytes")
    return name, found


def _check_place(name: str, tensor: TensorType, place: ExternalPlace, file_bytes: Mapping[str, int]) -> None:
    """Refuse a tensor whose bytes in another file are not there, or not as many as its shape needs."""
    location, offset, length = place
    if location not in file_bytes:
        raise ValueError(f"{name!r} in {location!r}, which is not among the bundle's files beside the graph")
    if offset + length > file_bytes[location]:
        raise ValueError(f"{name!r} at bytes {offset} to {offset + length} of {location}, which has fewer")
    num_elements = math.prod(tensor.shape)
    bits = _BITS_BY_DATA_TYPE.get(tensor.data_type)
    if bits is None or length != -(-num_elements * bits // 8):
        raise ValueError(f"{name!r} of {num_elements} elements in {length} bytes of {location}")
