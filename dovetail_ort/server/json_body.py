"""The JSON value in a request's body, of which no more is read than is allowed. It knows no fields."""

from __future__ import annotations

import asyncio
import json
from typing import Final, NoReturn

from starlette.requests import Request

from dovetail_ort.server.errors import RequestError

_SECONDS: Final = 30


async def read_json(request: Request, max_bytes: int) -> object:
    """Read and parse a body.

    Raises:
        RequestError: it is too large, too slow, of another type, or no JSON.
        ClientDisconnect: the client left.
    """
    # A page of another origin cannot send this type without asking first, and is not allowed to.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError("the Content-Type must be application/json", status=415)
    try:
        async with asyncio.timeout(_SECONDS):
            body = await _read(request, max_bytes)
    except TimeoutError:
        raise RequestError(f"the body must arrive within {_SECONDS} s", status=408) from None
    try:
        value: object = json.loads(body, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates, which no text can hold, fail here
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"the body must be JSON in UTF-8, got: {reason!a:.120}") from None
    return value


async def _read(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():  # whatever Content-Length says
        body += chunk
        if len(body) > max_bytes:
            raise RequestError(f"the body must have {max_bytes} bytes or fewer, got more", status=413)
    return bytes(body)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have")
