"""What a bundle's graph may hold, checked on the bytes of the ONNX file before ONNX Runtime sees them.

A bundle's graph is flat: nodes of ONNX, of ONNX Runtime and of this package, weights in files of the bundle. So
functions, subgraphs, sparse weights and operators of other domains are refused. The reader is strict where protobuf is
lenient: a field that is there twice or in another encoding is an error, so that ONNX Runtime reads nothing in another
way.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dovetail_ort_runtime.bundle.native_check import Attribute, GraphTensors, NativeNode, TensorType, check_node
from dovetail_ort_runtime.errors import BundleError, BundleVersionError
from dovetail_ort_runtime.kernels import OPERATOR_DOMAIN, OPERATOR_VERSION

DOMAINS: Final = ("", "ai.onnx", "com.microsoft", OPERATOR_DOMAIN)
# Nodes and names alone: weights lie beside the graph.
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
# Fields of the ONNX messages, by the numbers in onnx.proto.
_MODEL: Final = {"graph": 7, "opset_import": 8, "training_info": 20, "functions": 25}
_OPSET: Final = {"domain": 1, "version": 2}
_GRAPH: Final = {"node": 1, "initializer": 5, "input": 11, "sparse_initializer": 15}
_NODE: Final = {"input": 1, "output": 2, "op_type": 4, "attribute": 5, "domain": 7}
_ATTRIBUTE: Final = {"t": 5, "g": 6, "tensors": 10, "graphs": 11, "sparse_tensor": 22, "sparse_tensors": 23}
_SUBGRAPHS: Final = ("g", "graphs", "sparse_tensor", "sparse_tensors")
_VALUES: Final = {"f": 2, "i": 3, "s": 4}
_NATIVE_ATTRIBUTE: Final = {"name": 1, **_VALUES, **_ATTRIBUTE, "floats": 7, "ints": 8, "strings": 9, "kind": 20}
_VALUE_INFO: Final = {"name": 1, "type": 2}
_TYPE: Final = {"tensor_type": 1}
_TENSOR_TYPE: Final = {"elem_type": 1, "shape": 2}
_SHAPE: Final = {"dim": 1}
_DIMENSION: Final = {"dim_value": 1}
_TENSOR: Final = {"dims": 1, "data_type": 2, "name": 8, "external_data": 13, "data_location": 14}
_ENTRY: Final = {"key": 1, "value": 2}
_REPEATED: Final = {
    *("opset_import", "training_info", "functions", "node", "initializer", "sparse_initializer", "attribute"),
    *("tensors", "graphs", "sparse_tensors", "dims", "external_data", "input", "output", "dim"),
    *("floats", "ints", "strings"),
}
_INTEGERS: Final = {"dims", "data_type", "data_location", "version", "i", "ints", "kind", "elem_type", "dim_value"}
_FLOATS: Final = {"f", "floats"}
# Wire types of protobuf, and the sizes of those that have one.
_VARINT: Final = 0
_BYTES: Final = 2
_FIXED_32: Final = 5
_FIXED_SIZES: Final = {1: 8, _FIXED_32: 4}
# Types of an attribute that a native node may have, by the numbers in onnx.proto.
_KINDS: Final = {1: "f", 2: "i", 3: "s"}
_VARINT_BITS: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedGraph:
    """What is known of a graph that passed.

    Attributes:
        shapes: of its weights by name.
        operators: version of this package's own operators, or None if it has none.
    """

    shapes: Mapping[str, tuple[int, ...]]
    operators: int | None


def check_graph(path: Path, file_bytes: Mapping[str, int]) -> CheckedGraph:
    """Refuse a graph that could reach outside its bundle or take memory that its files do not account for.

    Args:
        path: of the ONNX file.
        file_bytes: size of every file that its weights may lie in, by the location that the graph gives.

    Raises:
        BundleError: the file is not a graph, or not such a one.
        BundleVersionError: it has native operators of a version that this release does not have.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_GRAPH_BYTES + 1)
        if len(content) > LARGEST_GRAPH_BYTES:
            raise ValueError(f"it has more than {LARGEST_GRAPH_BYTES} bytes; weights belong into a file beside it")
        return _check_model(memoryview(content), file_bytes)
    except BundleVersionError:
        raise
    except ValueError as error:
        raise BundleError(
            f"{path.name} must be a graph that stays inside its bundle, got: {error}; do not use this bundle"
        ) from None


def uses_native_operators(path: Path) -> bool:
    """Whether a graph imports this package's own operators; False for what is no graph."""
    try:
        model = _Message(memoryview(path.read_bytes()), _MODEL)
        return OPERATOR_DOMAIN in [_Message(opset, _OPSET).text("domain") for opset in model.messages("opset_import")]
    except (OSError, ValueError):
        return False


def graph_bytes(path: Path) -> int:
    """Size of a graph and of its weights in other files, which other graphs may have as well.

    Raises:
        ValueError: it is no graph, or a weight has no place.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    graph = _Message(_Message(memoryview(content), _MODEL).message("graph"), _GRAPH)
    places = set()
    for message in graph.messages("initializer"):
        tensor = _Message(message, _TENSOR)
        if external := list(tensor.messages("external_data")):
            places.add(_place(tensor.text("name"), external))
    return len(content) + sum(length for _, _, length in places)


def _check_model(message: memoryview, file_bytes: Mapping[str, int]) -> CheckedGraph:
    model = _Message(message, _MODEL)
    model.forbid("training_info", "functions")
    operators = _native_version([_Message(opset, _OPSET) for opset in model.messages("opset_import")])
    graph = _Message(model.message("graph"), _GRAPH)
    graph.forbid("sparse_initializer")
    weights: dict[str, TensorType] = {}
    for tensor in graph.messages("initializer"):
        name, found = _check_tensor(tensor, file_bytes)
        if name in weights:
            raise ValueError(f"the weight {name!r} twice")
        weights[name] = found
    inputs = dict(_input_type(value) for value in graph.messages("input")) if operators is not None else {}
    tensors = GraphTensors(weights=weights, inputs=inputs)
    for node in graph.messages("node"):
        _check_node(_Message(node, _NODE), file_bytes, tensors, has_operators=operators is not None)
    return CheckedGraph(shapes={name: found.shape for name, found in weights.items()}, operators=operators)


def _native_version(opsets: list[_Message]) -> int | None:
    versions = []
    for opset in opsets:
        _check_domain(opset.text("domain"))
        if opset.text("domain") == OPERATOR_DOMAIN:
            versions.append(opset.integer("version"))
    if len(versions) > 1:
        raise ValueError(f"{OPERATOR_DOMAIN} in {len(versions)} versions")
    for version in versions:
        if version < 1:
            raise ValueError(f"{OPERATOR_DOMAIN} in version {version}")
        if version > OPERATOR_VERSION:
            raise BundleVersionError(
                f"native operators must be of version {OPERATOR_VERSION} or older, got {version}; "
                "install the release of dovetail-ort that wrote the bundle, or a newer one"
            )
    return versions[0] if versions else None


def _check_domain(domain: str) -> None:
    if domain not in DOMAINS:
        raise ValueError(f"operators of {domain!r}; only those of ONNX, of com.microsoft and of {OPERATOR_DOMAIN} run")


def _check_node(node: _Message, file_bytes: Mapping[str, int], tensors: GraphTensors, *, has_operators: bool) -> None:
    domain = node.text("domain")
    _check_domain(domain)
    if domain == OPERATOR_DOMAIN:
        if not has_operators:
            raise ValueError(f"operators of {OPERATOR_DOMAIN} without their version")
        check_node(_native_node(node), tensors)
        return
    for attribute in node.messages("attribute"):
        fields = _Message(attribute, _ATTRIBUTE)
        fields.forbid(*_SUBGRAPHS)
        for tensor in (*fields.messages("t"), *fields.messages("tensors")):
            _check_tensor(tensor, file_bytes)


def _native_node(node: _Message) -> NativeNode:
    attributes: dict[str, Attribute] = {}
    for message in node.messages("attribute"):
        fields = _Message(message, _NATIVE_ATTRIBUTE)
        fields.forbid(*_SUBGRAPHS)
        name, value = fields.text("name"), _value(fields)
        if name in attributes:
            raise ValueError(f"the attribute {name!r} twice")
        attributes[name] = value
    return NativeNode(
        operator=node.text("op_type"), inputs=node.texts("input"), outputs=node.texts("output"), attributes=attributes
    )


def _value(attribute: _Message) -> Attribute:
    """The float, integer or text of an attribute whose type says the same."""
    name, found = attribute.text("name"), attribute.names()
    kind = _KINDS.get(attribute.integer("kind"))
    # What has its default may be left out of the message.
    if kind is None or not found <= {"name", "kind", kind}:
        raise ValueError(f"an attribute {name!r} that is no float, integer or text")
    if kind == "f":
        return attribute.number("f")
    if kind == "s":
        return attribute.text("s")
    return _signed(attribute.integer("i"))


def _signed(value: int) -> int:
    return value - (1 << _VARINT_BITS) if value >> (_VARINT_BITS - 1) else value


def _input_type(message: memoryview) -> tuple[str, TensorType]:
    """Name and type of what a caller gives; a dimension without a number is -1."""
    value = _Message(message, _VALUE_INFO)
    tensor = _Message(_Message(value.message("type"), _TYPE).message("tensor_type"), _TENSOR_TYPE)
    shape = [_Message(dim, _DIMENSION) for dim in _Message(tensor.message("shape"), _SHAPE).messages("dim")]
    dims = tuple(dim.integer("dim_value") if "dim_value" in dim.names() else -1 for dim in shape)
    return value.text("name"), TensorType(data_type=tensor.integer("elem_type"), shape=dims)


def _check_tensor(message: memoryview, file_bytes: Mapping[str, int]) -> tuple[str, TensorType]:
    """Its name, number format and shape."""
    tensor = _Message(message, _TENSOR)
    name, shape = tensor.text("name"), tuple(tensor.integers("dims"))
    data_type = tensor.integer("data_type")
    found = TensorType(data_type=data_type, shape=shape)
    num_elements = math.prod(shape)
    external = list(tensor.messages("external_data"))
    if not external and not tensor.integer("data_location"):
        if num_elements > len(message) * _ELEMENTS_PER_BYTE:
            raise ValueError(f"{name!r} of {num_elements} elements in {len(message)} bytes")
        return name, found
    location, offset, length = _place(name, external)
    if location not in file_bytes:
        raise ValueError(f"{name!r} in {location!r}, which is not among the bundle's files beside the graph")
    if offset + length > file_bytes[location]:
        raise ValueError(f"{name!r} at bytes {offset} to {offset + length} of {location}, which has fewer")
    bits = _BITS_BY_DATA_TYPE.get(data_type)
    if bits is None or length != -(-num_elements * bits // 8):
        raise ValueError(f"{name!r} of {num_elements} elements in {length} bytes of {location}")
    return name, found


def _place(name: str, entries: list[memoryview]) -> tuple[str, int, int]:
    """Location, offset and length of a tensor's bytes."""
    found: dict[str, str] = {}
    for entry in entries:
        fields = _Message(entry, _ENTRY)
        key = fields.text("key")
        if key in found:
            raise ValueError(f"{name!r} with the key {key!r} twice")
        found[key] = fields.text("value")
    if found.keys() != {"location", "offset", "length"} or not all(
        found[key].isascii() and found[key].isdecimal() and len(found[key]) < 20 for key in ("offset", "length")
    ):
        raise ValueError(f"{name!r} without one location, offset and length")
    return found["location"], int(found["offset"]), int(found["length"])


class _Message:
    """The fields of one message whose `numbers` are given by name; all others are skipped."""

    def __init__(self, content: memoryview, numbers: Mapping[str, int]) -> None:
        names = {number: name for name, number in numbers.items()}
        self._found: dict[str, list[int | memoryview]] = {}
        for number, wire_type, value in _fields(content):
            if name := names.get(number):
                self._found.setdefault(name, []).extend(_values(name, wire_type, value))
        for name, values in self._found.items():
            if len(values) > 1 and name not in _REPEATED:
                raise ValueError(f"{name} twice in one message")

    def forbid(self, *names: str) -> None:
        """Refuse a message that has one of these fields."""
        for name in names:
            if name in self._found:
                raise ValueError(f"the field {name}, which a flat graph does not need")

    def messages(self, name: str) -> Iterator[memoryview]:
        """Every message or text in a field."""
        for value in self._found.get(name, ()):
            assert isinstance(value, memoryview)
            yield value

    def message(self, name: str) -> memoryview:
        """The one message in a field."""
        for value in self.messages(name):
            return value
        raise ValueError(f"no {name}")

    def text(self, name: str) -> str:
        """The text in a field, empty if it is not there."""
        return "".join(str(value, "utf-8") for value in self.messages(name))

    def texts(self, name: str) -> list[str]:
        """Every text in a field."""
        return [str(value, "utf-8") for value in self.messages(name)]

    def names(self) -> set[str]:
        """The fields that are there."""
        return set(self._found)

    def number(self, name: str) -> float:
        """The float32 in a field, 0 if it is not there."""
        return sum(float(struct.unpack("<f", value)[0]) for value in self.messages(name))

    def integers(self, name: str) -> list[int]:
        """All integers in a field."""
        return [value for value in self._found.get(name, ()) if isinstance(value, int)]

    def integer(self, name: str) -> int:
        """The integer in a field, 0 if it is not there."""
        return sum(self.integers(name))


def _values(name: str, wire_type: int, value: int | memoryview) -> list[int | memoryview]:
    if name in _INTEGERS:
        if wire_type == _VARINT:
            return [value]
        if wire_type == _BYTES and name in _REPEATED:
            return list(_varints(value))  # type: ignore[arg-type]  # bytes, by the wire type
    elif name in _FLOATS:
        if wire_type == _FIXED_32:
            return [value]
    elif wire_type == _BYTES:
        return [value]
    raise ValueError(f"{name} in the wire type {wire_type}")


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and content of every field; the integer of a varint, else bytes."""
    place = 0
    end = len(message)
    while place < end:
        tag, place = _varint(message, place)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if wire_type == _VARINT:
            value, place = _varint(message, place)
            yield number, wire_type, value
            continue
        if wire_type == _BYTES:
            size, place = _varint(message, place)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise ValueError(f"field {number} has the wire type {wire_type}")
        if size > end - place:
            raise ValueError(f"field {number} ends behind its message")
        yield number, wire_type, message[place : place + size]
        place += size


def _varints(content: memoryview) -> Iterator[int]:
    """Those of a packed field."""
    place = 0
    while place < len(content):
        value, place = _varint(content, place)
        yield value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The integer at a place and the place behind it; bytes ac 02 are 0x2c + (2 << 7) = 300."""
    if place < len(message) and (value := message[place]) < 0x80:
        return value, place + 1  # nearly all are so short
    value = 0
    for shift in range(0, _VARINT_BITS, 7):
        if place >= len(message):
            raise ValueError("an integer ends behind its message")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> _VARINT_BITS:
                raise ValueError("an integer has more than 64 bits")
            return value, place
    raise ValueError("an integer has more than 64 bits")
