"""The JSON of a request's body, read up to a limit and then field by field. It knows no field's meaning."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

from starlette.requests import Request

from dovetail_ort.server.errors import RequestError
from dovetail_ort_runtime.errors import one_line

_SECONDS: Final = 30
_SHOWN_CHARACTERS: Final = 60

# Values that change nothing, by the names of their fields.
Neutral = Mapping[str, tuple[object, ...]]
_NO_ADVICE: Final[Mapping[str, str]] = {}


async def read_json(request: Request, max_bytes: int) -> object:
    """Read and parse a body.

    Raises:
        RequestError: the body is too large, too slow, of another type, or no JSON.
        ClientDisconnect: the client left.
    """
    # The browser of a foreign page must ask first before it sends this type, and is refused.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError("the Content-Type must be application/json", status=415)
    body = bytearray()
    try:
        async with asyncio.timeout(_SECONDS):
            async for chunk in request.stream():  # counted here, as Content-Length may be wrong
                body += chunk
                if len(body) > max_bytes:
                    raise RequestError(f"the body must have {max_bytes} bytes or fewer, got more", status=413)
    except TimeoutError:
        raise RequestError(f"the body must arrive within {_SECONDS} s", status=408) from None
    try:
        value: object = json.loads(body, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()  # fails on lone surrogates, which no text can hold
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body must be JSON in UTF-8, got: {one_line(error)!a:.120}") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have")


class Fields:
    """Takes fields out of a JSON object. A field that is null counts as absent.

    Args:
        value: the object.
        path: path of the object in the request's body; empty for the body itself.

    Attributes:
        ignored: paths of the fields that nobody took, of this object and of those within it, once `end` was called.

    Raises:
        RequestError: `value` is no object.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise bad_value(path, "an object", value)
        self._path = path
        self._left = {name: item for name, item in value.items() if item is not None}
        self.ignored: list[str] = []

    def within(self, name: str, value: object) -> Fields:
        """Fields of an object within this one."""
        fields = Fields(value, self.path(name))
        fields.ignored = self.ignored
        return fields

    def path(self, name: str) -> str:
        """Path of a field in the request's body."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> Any:
        """Value of any type; None if absent."""
        return self._left.pop(name, None)

    def required(self, name: str, expected: type, rule: str) -> Any:
        """Value of a type; the field must be there."""
        value = self.take(name)
        if type(value) is not expected:
            raise bad_value(self.path(name), rule, value)
        return value

    def text(self, name: str) -> str | None:
        """A string; None if absent."""
        return self._typed(name, str, "a string")  # type: ignore[no-any-return]

    def boolean(self, name: str) -> bool:
        """True or false; false if absent."""
        return bool(self._typed(name, bool, "true or false"))

    def integer(self, name: str, least: int, most: int) -> int | None:
        """A whole number from `least` to `most`; None if absent."""
        value = self.take(name)
        # bool is an int to isinstance, and never meant as one here.
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise bad_value(self.path(name), f"a whole number from {least} to {most}", value)
        return value

    def number(self, name: str, least: float, most: float, *, above: bool = False) -> float | None:
        """A number from `least` to `most`, without `least` itself if `above`; None if absent."""
        value = self.take(name)
        if value is None:
            return None
        # NaN compares false with everything.
        if type(value) not in (int, float) or not least <= value <= most or (above and value == least):
            bound = "above" if above else "from"
            raise bad_value(self.path(name), f"a number {bound} {least} to {most}", value)
        return float(value)

    def only(self, neutral: Neutral, advice: Mapping[str, str] = _NO_ADVICE) -> None:
        """Accept unsupported fields whose values change nothing, and refuse other values.

        Args:
            neutral: values that change nothing, by name.
            advice: what to do instead, by name.
        """
        for name, values in neutral.items():
            value = self.take(name)
            # In Python 1 == True; in JSON they differ.
            if value is not None and not any(type(value) is type(item) and value == item for item in values):
                rule = " or ".join(["left out", *map(_shown, values[:1])])
                path = self.path(name)
                reason = advice.get(name, "this server does not support it")
                raise RequestError(f"{path} must be {rule}, got {_shown(value)}; {reason}", param=path)

    def ignore(self, names: Iterable[str]) -> None:
        """Accept fields that change no answer, with any value."""
        for name in names:
            self.take(name)

    def end(self) -> None:
        """Take no more fields: all that are left are ignored."""
        self.ignored += map(self.path, self._left)

    def _typed(self, name: str, expected: type, rule: str) -> Any:
        value = self.take(name)
        if value is not None and type(value) is not expected:
            raise bad_value(self.path(name), rule, value)
        return value


def bad_value(path: str, rule: str, value: object) -> RequestError:
    """Error for a value that breaks a rule; `path` is empty for the body."""
    return RequestError(f"{path or 'the body'} must be {rule}, got {_shown(value)}", param=path or None)


def _shown(value: object) -> str:
    """A value in a few ASCII characters."""
    if isinstance(value, list | dict) and value:
        return f"a list of {len(value)}" if isinstance(value, list) else f"an object of {len(value)} fields"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
