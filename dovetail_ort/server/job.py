"""One answer on its way from the model's thread to the event loop that waits for it. It knows no model and no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from dovetail_ort.server.errors import RequestError
from dovetail_ort.server.requests import AnswerRequest
from dovetail_ort_runtime.results import FinishReason, Piece, Statistics


class Job:
    """One answer: the event loop makes and reads it, the model's thread gives it.

    Args:
        request: what is asked for.
        client: address of the client, which takes turns with others.

    Attributes:
        request: what is asked for.
        client: address of the client.
        finish_reason: reason why the answer ended, `length` for a time limit too; None before, and for an answer that
            failed or was aborted.
        statistics: statistics of an answer that the model finished, else None.
        prompt_tokens: number of tokens of the prompt; 0 until the answer's turn comes.
        num_tokens: number of tokens of the answer so far.
        num_accepted: number of these tokens that were drafted.
        submitted: `time.perf_counter()` when the job was made.
        first_token: `time.perf_counter()` at the first token, if there is one.
        last_token: `time.perf_counter()` at the newest token.
    """

    def __init__(self, request: AnswerRequest, client: str) -> None:
        self.request = request
        self.client = client
        self.finish_reason: FinishReason | None = None
        self.statistics: Statistics | None = None
        self.prompt_tokens = 0
        self.num_tokens = 0
        self.num_accepted = 0
        self.submitted = time.perf_counter()
        self.first_token = self.submitted
        self.last_token = self.submitted
        self._aborted: RequestError | None = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Piece | RequestError | None] = asyncio.Queue()

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer's pieces, up to its end.

        Raises:
            RequestError: the answer failed or was aborted.
        """
        while (event := await self._events.get()) is not None:
            if isinstance(event, RequestError):
                raise event
            yield event

    def abort(self, reason: RequestError) -> None:
        """End the answer before it is finished. Any thread may call this."""
        self._aborted = reason

    def check_wanted(self) -> None:
        """Raise the RequestError that the answer was aborted with, if it was."""
        if self._aborted is not None:
            raise self._aborted

    def deliver(self, piece: Piece) -> None:
        """Hand over a piece. Only the model's thread calls this and the methods below."""
        self.last_token = time.perf_counter()
        if self.num_tokens == 0:
            self.first_token = self.last_token
        self.num_tokens += 1
        self.num_accepted += piece.drafted
        self._send(piece)

    def finish(self, reason: FinishReason, statistics: Statistics | None = None) -> None:
        """Hand over the end of the answer."""
        self.finish_reason = reason
        self.statistics = statistics
        self._send(None)

    def fail(self, error: RequestError) -> None:
        """Hand over the error that the answer ended with."""
        self._send(error)

    def _send(self, event: Piece | RequestError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
