"""An ONNX file, read field by field without the package onnx. It knows no rule for what a graph may hold.

The reader is strict where protobuf is lenient: a field that is there twice, or in another encoding, is an error. So
ONNX Runtime cannot read the file in another way. Errors are ValueErrors that say in words what the file holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from dovetail_ort_runtime.kernels import OPERATOR_DOMAIN

# Fields of the ONNX messages, by the numbers in onnx.proto.
MODEL: Final = {"graph": 7, "opset_import": 8, "training_info": 20, "functions": 25}
OPSET: Final = {"domain": 1, "version": 2}
GRAPH: Final = {"node": 1, "initializer": 5, "input": 11, "sparse_initializer": 15}
NODE: Final = {"input": 1, "output": 2, "op_type": 4, "attribute": 5, "domain": 7}
# Attributes of any node are read for the tensors and graphs in them, those of native nodes for their values as well.
ATTRIBUTE: Final = {"t": 5, "g": 6, "tensors": 10, "graphs": 11, "sparse_tensor": 22, "sparse_tensors": 23}
NATIVE_ATTRIBUTE: Final = {
    **ATTRIBUTE,
    "name": 1,
    "f": 2,
    "i": 3,
    "s": 4,
    "floats": 7,
    "ints": 8,
    "strings": 9,
    "kind": 20,
}
VALUE_INFO: Final = {"name": 1, "type": 2}
TYPE: Final = {"tensor_type": 1}
TENSOR_TYPE: Final = {"elem_type": 1, "shape": 2}
SHAPE: Final = {"dim": 1}
DIMENSION: Final = {"dim_value": 1}
TENSOR: Final = {"dims": 1, "data_type": 2, "name": 8, "external_data": 13, "data_location": 14}
ENTRY: Final = {"key": 1, "value": 2}

_REPEATED: Final = {
    "attribute",
    "dim",
    "dims",
    "external_data",
    "floats",
    "functions",
    "graphs",
    "initializer",
    "input",
    "ints",
    "node",
    "opset_import",
    "output",
    "sparse_initializer",
    "sparse_tensors",
    "strings",
    "tensors",
    "training_info",
}
_INTEGERS: Final = {"dims", "data_type", "data_location", "version", "i", "ints", "kind", "elem_type", "dim_value"}
_FLOATS: Final = {"f", "floats"}
# Wire types of protobuf, and the sizes of those that have one.
_VARINT: Final = 0
_BYTES: Final = 2
_FIXED_32: Final = 5
_FIXED_SIZES: Final = {1: 8, _FIXED_32: 4}
_VARINT_BITS: Final = 64
_PLACE_KEYS: Final = {"location", "offset", "length"}
_MOST_DIGITS: Final = 19  # largest number of digits of an offset or a length


class ProtobufMessage:
    """The fields of one message that have a name in `numbers`; all others are skipped.

    Args:
        content: bytes of the message.
        numbers: numbers of the fields by name, such as `GRAPH`.

    Raises:
        ValueError: the bytes are no message, or a field is there twice or in another encoding.
    """

    def __init__(self, content: memoryview, numbers: Mapping[str, int]) -> None:
        names = {number: name for name, number in numbers.items()}
        self._found: dict[str, list[int | memoryview]] = {}
        for number, wire_type, value in _fields(content):
            name = names.get(number)
            if name is not None:
                self._found.setdefault(name, []).extend(_values(name, wire_type, value))
        for name, values in self._found.items():
            if len(values) > 1 and name not in _REPEATED:
                raise ValueError(f"{name} twice in one message")

    def names(self) -> set[str]:
        """Names of the fields that are there."""
        return set(self._found)

    def messages(self, name: str) -> Iterator[memoryview]:
        """Every message or text in a field."""
        for value in self._found.get(name, ()):
            assert isinstance(value, memoryview)
            yield value

    def message(self, name: str) -> memoryview:
        """The one message in a field; ValueError if there is none."""
        for value in self.messages(name):
            return value
        raise ValueError(f"no {name}")

    def texts(self, name: str) -> list[str]:
        """Every text in a field."""
        return [str(value, "utf-8") for value in self.messages(name)]

    def text(self, name: str) -> str:
        """The text in a field, empty if it is not there."""
        texts = self.texts(name)
        return texts[0] if texts else ""

    def integers(self, name: str) -> list[int]:
        """Every integer in a field, without its sign: -1 is 2^64 - 1."""
        return [value for value in self._found.get(name, ()) if isinstance(value, int)]

    def integer(self, name: str) -> int:
        """The integer in a field without its sign, 0 if it is not there."""
        integers = self.integers(name)
        return integers[0] if integers else 0

    def signed_integer(self, name: str) -> int:
        """The integer in a field with its sign, 0 if it is not there."""
        value = self.integer(name)
        return value - (1 << _VARINT_BITS) if value >> (_VARINT_BITS - 1) else value

    def number(self, name: str) -> float:
        """The float32 in a field, 0 if it is not there."""
        value = next(self.messages(name), None)
        return 0.0 if value is None else float(struct.unpack("<f", value)[0])


class ExternalPlace(NamedTuple):
    """Where the bytes of a weight lie outside the graph.

    Attributes:
        location: name of the file.
        offset: number of bytes before the weight's first.
        length: number of bytes of the weight.
    """

    location: str
    offset: int
    length: int


def external_place(tensor: ProtobufMessage) -> ExternalPlace | None:
    """Place of a tensor's bytes in another file; None for one whose bytes are in the graph itself.

    Args:
        tensor: fields of a `TENSOR`.

    Raises:
        ValueError: it lies in another file, and the graph does not say once where.
    """
    entries = list(tensor.messages("external_data"))
    if not entries and not tensor.integer("data_location"):
        return None
    name = tensor.text("name")
    found: dict[str, str] = {}
    for entry in entries:
        fields = ProtobufMessage(entry, ENTRY)
        key = fields.text("key")
        if key in found:
            raise ValueError(f"{name!r} with the key {key!r} twice")
        found[key] = fields.text("value")
    if found.keys() != _PLACE_KEYS or not _is_size(found["offset"]) or not _is_size(found["length"]):
        raise ValueError(f"{name!r} without one location, offset and length")
    return ExternalPlace(location=found["location"], offset=int(found["offset"]), length=int(found["length"]))


def uses_native_operators(path: Path) -> bool:
    """Whether a graph imports this project's own operators; False for a file that is no graph."""
    try:
        model = ProtobufMessage(memoryview(path.read_bytes()), MODEL)
        domains = [ProtobufMessage(opset, OPSET).text("domain") for opset in model.messages("opset_import")]
    except (OSError, ValueError):
        return False
    return OPERATOR_DOMAIN in domains


def graph_bytes(path: Path) -> int:
    """Size in bytes of a graph and of its weights in other files; those that two weights share count once.

    Raises:
        ValueError: the file is no graph, or does not say where a weight lies.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    graph = ProtobufMessage(ProtobufMessage(memoryview(content), MODEL).message("graph"), GRAPH)
    places = {external_place(ProtobufMessage(tensor, TENSOR)) for tensor in graph.messages("initializer")}
    return len(content) + sum(place.length for place in places if place is not None)


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


def _values(name: str, wire_type: int, value: int | memoryview) -> list[int | memoryview]:
    """Values of one field, of which a packed one has many."""
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
    """Number, wire type and content of every field: the integer of a varint, else bytes."""
    place = 0
    end = len(message)
    while place < end:
        tag, place = _varint(message, place)
        number = tag >> 3
        wire_type = tag & 7
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
            raise ValueError(f"field {number} ends beyond its message")
        yield number, wire_type, message[place : place + size]
        place += size


def _varints(content: memoryview) -> Iterator[int]:
    """Every integer of a packed field."""
    place = 0
    while place < len(content):
        value, place = _varint(content, place)
        yield value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The integer at a place, and the place after it; bytes ac 02 are 0x2c + (2 << 7) = 300."""
    if place < len(message) and message[place] < 0x80:
        return message[place], place + 1  # nearly all are so short
    value = 0
    for shift in range(0, _VARINT_BITS, 7):
        if place >= len(message):
            raise ValueError("an integer ends beyond its message")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> _VARINT_BITS:
                raise ValueError("an integer has more than 64 bits")
            return value, place
    raise ValueError("an integer has more than 64 bits")
