"""Read dataclasses from JSON values strictly: no unknown, missing or mistyped key passes. It knows no file."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from dovetail_ort_runtime.errors import BundleError

RecordT = TypeVar("RecordT")


def read_record(record_type: type[RecordT], value: Any, where: str) -> RecordT:
    """A dataclass from a JSON object.

    Args:
        record_type: dataclass, whose fields may be scalars, other dataclasses, tuples of either, dictionaries with keys
            of str, and each of these or None.
        value: JSON value, as `json.loads` gives it.
        where: name of the value in error messages, such as `manifest.target`.

    Raises:
        BundleError: the value does not fit the type.
    """
    if not isinstance(value, dict):
        raise BundleError(f"{where} must be an object, got {_kind(value)}")
    hints = typing.get_type_hints(record_type)
    fields = {field.name: field for field in dataclasses.fields(record_type)}  # type: ignore[arg-type]
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise BundleError(
            f"{where} must have no other keys than {', '.join(fields)}, got {', '.join(map(repr, unknown))}; "
            "install the release of dovetail-ort that wrote it, or a newer one"
        )
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    missing = sorted(required - set(value))
    if missing:
        raise BundleError(f"{where} must have the key {missing[0]!r}")
    arguments = {name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return record_type(**arguments)
    except ValueError as error:
        raise BundleError(f"{where}: {error}") from error


def _read(expected: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(expected)
    arguments = typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (other,) = (item for item in arguments if item is not type(None))
        return _read(other, value, where)
    if dataclasses.is_dataclass(expected):
        return read_record(typing.cast(type, expected), value, where)
    if origin is tuple:
        _check(value, list, where)
        return tuple(_read(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        _check(value, dict, where)
        return {key: _read(arguments[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if expected is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise BundleError(f"{where} must be a number within the range of a double, got {error}") from error
    _check(value, expected, where)
    return value


def _check(value: Any, expected: type, where: str) -> None:
    # bool is an int to isinstance, and never meant as one here.
    if type(value) is not expected:
        raise BundleError(f"{where} must be {_NAMES[expected]}, got {_kind(value)}")


_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)
