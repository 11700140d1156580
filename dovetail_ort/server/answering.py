"""One request's way through the server: body, job, response. It knows connections, but no field of a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dovetail_ort.server.engine import Engine
from dovetail_ort.server.errors import RequestError, error_body
from dovetail_ort.server.ignored_fields import ignored_fields_headers
from dovetail_ort.server.job import Job
from dovetail_ort.server.json_body import read_json
from dovetail_ort.server.requests import AnswerRequest
from dovetail_ort.server.responses import AnswerWriter
from dovetail_ort.server.settings import ServerSettings
from dovetail_ort_runtime.model import Model
from dovetail_ort_runtime.results import Piece

ResultT = TypeVar("ResultT")
_DONE: Final = b"data: [DONE]\n\n"
_STREAM_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Answering:
    """Answers requests by an engine.

    Args:
        engine: thread and queue of the model.
        settings: limits and defaults of the server.
        model: model that answers.
    """

    def __init__(self, engine: Engine, settings: ServerSettings, model: Model) -> None:
        self._engine = engine
        self._settings = settings
        self._model = model

    async def answer(
        self, request: Request, read: Callable[[object], AnswerRequest], writer_class: type[AnswerWriter]
    ) -> Response:
        """Read a request, wait for its turn, and answer it, whole or as a stream.

        Args:
            request: request of HTTP.
            read: reader of the JSON body.
            writer_class: writer of the answer.

        Raises:
            DovetailError: the request is refused, or the answer failed before its first token.
            ClientDisconnect: the client left before there was anything to send.
        """
        asked = read(await read_json(request, self._settings.max_request_bytes))
        job = Job(asked, client=request.client.host if request.client else "")
        headers = ignored_fields_headers(asked.ignored_fields)
        writer = writer_class(job, self._model, self._settings.model_name)
        self._engine.submit(job)
        try:
            pieces = job.pieces()
            if asked.stream:
                first = await _unless_gone(request, anext(pieces))
                return EventStream(self._engine, job, first, pieces, writer, headers)
            collected = await _unless_gone(request, _collect(pieces))
        except BaseException:
            self._engine.abandon(job)
            raise
        return JSONResponse(writer.whole(collected), headers=headers)


class EventStream(StreamingResponse):
    """Server-sent events of one answer. Its job ends with it, however it ends.

    Args:
        engine: engine that gives the answer.
        job: the answer.
        first: first piece of the answer.
        rest: all further pieces.
        writer: writer of the chunks.
        headers: further headers of the response.
    """

    def __init__(
        self,
        engine: Engine,
        job: Job,
        first: Piece,
        rest: AsyncIterator[Piece],
        writer: AnswerWriter,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(
            _events(first, rest, writer), media_type="text/event-stream", headers={**_STREAM_HEADERS, **headers}
        )
        self._engine = engine
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. If the client leaves, the job ends within one round."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._engine.abandon(self._job)


async def _events(first: Piece, rest: AsyncIterator[Piece], writer: AnswerWriter) -> AsyncIterator[bytes]:
    try:
        for chunk in (*writer.opening(), *writer.chunks(first)):
            yield _event(chunk)
        async for piece in rest:
            for chunk in writer.chunks(piece):
                yield _event(chunk)
        for chunk in writer.closing():
            yield _event(chunk)
        yield _DONE
    except RequestError as error:  # the status is sent already, so the stream carries the error
        yield _event(error_body(error))


def _event(value: object) -> bytes:
    # In ASCII, as clients that split lines like Python would break at U+2028 within a text.
    return b"data: " + json.dumps(value).encode("ascii") + b"\n\n"


async def _collect(pieces: AsyncIterator[Piece]) -> list[Piece]:
    return [piece async for piece in pieces]


async def _unless_gone(request: Request, work: Awaitable[ResultT]) -> ResultT:
    """Result of some work; ClientDisconnect if the client leaves first."""
    gone = asyncio.ensure_future(_left(request))
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        gone.cancel()
        working.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
