"""One answer on its way from the model's thread to the event loop that waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from dovetail_ort.server.errors import RequestError
from dovetail_ort.server.requests import AnswerRequest
from dovetail_ort_runtime.results import FinishReason, Piece, Statistics


class Job:
    """An answer to be given: made and read on the event loop, given by the model's thread.

    Attributes:
        finish_reason: how the answer ended, `length` also where the time limit did it; None before, and where it failed
            or was aborted.
        statistics: the model's own of an answer that it finished, else None.
        prompt_tokens: tokens of the prompt; 0 until its turn comes.
        num_tokens: tokens of the answer so far.
        num_accepted: those of them that were drafted.
        submitted: `time.perf_counter()` when it was made.
        first_token: the same at the first token, if there is one.
        last_token: the same at the newest.
    """

    def __init__(self, request: AnswerRequest, client: str) -> None:
        self.request, self.client = request, client
        self.finish_reason: FinishReason | None = None
        self.statistics: Statistics | None = None
        self.prompt_tokens = self.num_tokens = self.num_accepted = 0
        self.submitted = self.first_token = self.last_token = time.perf_counter()
        self._aborted: RequestError | None = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Piece | RequestError | None] = asyncio.Queue()

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer's pieces, up to its end.

        Raises:
            RequestError: what came in place of the end.
        """
        while (event := await self._events.get()) is not None:
            if isinstance(event, RequestError):
                raise event
            yield event

    def abort(self, reason: RequestError) -> None:
        """The answer must end before it is finished; from any thread."""
        self._aborted = reason

    def check_wanted(self) -> None:
        """Raise the reason why the answer must end, if there is one."""
        if self._aborted is not None:
            raise self._aborted

    def deliver(self, piece: Piece) -> None:
        """Hand over a piece; from the model's thread, as all that follows."""
        self.last_token = time.perf_counter()
        self.first_token = self.first_token if self.num_tokens else self.last_token
        self.num_tokens += 1
        self.num_accepted += piece.drafted
        self._send(piece)

    def finish(self, reason: FinishReason, statistics: Statistics | None = None) -> None:
        """Hand over the end of the answer."""
        self.finish_reason, self.statistics = reason, statistics
        self._send(None)

    def fail(self, error: RequestError) -> None:
        """Hand over what went wrong."""
        self._send(error)

    def _send(self, event: Piece | RequestError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and whoever waited on it is gone
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
