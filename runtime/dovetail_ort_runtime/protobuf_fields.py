"""The fields of a protobuf message, one after the other. It knows no message type and copies no content."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
BYTES: Final = 2
_FIXED_SIZES: Final = {1: 8, 5: 4}
_VARINT_BITS: Final = 64

# Number, wire type, and the content: an unsigned integer of a varint, else the bytes themselves.
Field = tuple[int, int, int | memoryview]


def read_fields(message: memoryview) -> Iterator[Field]:
    """Every field of a message in the order of the bytes.

    Raises:
        ValueError: a field ends behind the message, has the number 0, or is a group, which no writer makes any more.
    """
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if wire_type == VARINT:
            value, place = _varint(message, place)
            yield number, wire_type, value
            continue
        if wire_type == BYTES:
            size, place = _varint(message, place)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise ValueError(f"field {number} has the wire type {wire_type}")
        if size > len(message) - place:
            raise ValueError(f"field {number} ends behind its message")
        yield number, wire_type, message[place : place + size]
        place += size


def read_varints(content: memoryview) -> Iterator[int]:
    """The unsigned integers of a packed field.

    Raises:
        ValueError: the last one is cut off.
    """
    place = 0
    while place < len(content):
        value, place = _varint(content, place)
        yield value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The integer at a place and the place behind it.

    Example: bytes ac 02 are 0x2c + (2 << 7) = 300.
    """
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
