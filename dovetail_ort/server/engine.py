"""The one thread in which the model answers, and the queue of its jobs. It knows no HTTP."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict, deque
from typing import Generic, TypeVar

from dovetail_ort.server.errors import RequestError, refusal
from dovetail_ort.server.intake import Intake
from dovetail_ort.server.job import Job
from dovetail_ort.server.metrics import ServerMetrics
from dovetail_ort.server.settings import ServerSettings
from dovetail_ort_runtime.model import Model

ItemT = TypeVar("ItemT")


class FairQueue(Generic[ItemT]):
    """A queue in which clients take turns: one with many items does not hold up one with a single item.

    Example: a adds 1, 2 and 3, then b adds 4. They come out as 1, 4, 2, 3.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[ItemT]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, client: str, item: ItemT) -> None:
        """Add an item after the client's others."""
        self._waiting.setdefault(client, deque()).append(item)

    def take(self) -> ItemT:
        """Remove and return the first item of the client whose turn it is. The queue must not be empty."""
        client, items = self._waiting.popitem(last=False)
        item = items.popleft()
        if items:
            self._waiting[client] = items  # after the other clients
        return item

    def discard(self, client: str, item: ItemT) -> None:
        """Remove an item if it is still in the queue."""
        items = self._waiting.get(client, deque())
        with contextlib.suppress(ValueError):
            items.remove(item)
        if not items:
            self._waiting.pop(client, None)


class Engine:
    """Gives one answer after the other: a model has one cache, which the next answer reuses as far as prompts agree.

    All work for a request is done when its turn comes, including its grammar and the tokens of its prompt. So a large
    request delays no other one before its turn.

    Args:
        model: model that answers.
        settings: limits and defaults of the server.
        metrics: counters of the server.
    """

    def __init__(self, model: Model, settings: ServerSettings, metrics: ServerMetrics) -> None:
        self._model = model
        self._settings = settings
        self._metrics = metrics
        self._intake = Intake(model, settings)
        self._queue: FairQueue[Job] = FairQueue()
        self._running: Job | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="dovetail-engine", daemon=True)
        metrics.queue_length.set_function(lambda: len(self._queue))
        metrics.running.set_function(lambda: self._running is not None)

    def start(self) -> None:
        """Begin to take jobs from the queue."""
        self._thread.start()

    @property
    def serves(self) -> bool:
        """Whether jobs are accepted and answered."""
        return not self._closed and self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            RequestError: its request is refused, the queue is full, or the server is shutting down.
        """
        self._intake.check(job.request)
        with self._changed:
            if self._closed:
                raise _ending()
            if len(self._queue) >= self._settings.max_queue:
                raise RequestError(
                    f"the queue is full, with {self._settings.max_queue} requests; try again later",
                    status=429,
                    code="rate_limit_exceeded",
                )
            self._queue.put(job.client, job)
            self._changed.notify()

    def abandon(self, job: Job) -> None:
        """Give up a job that nobody waits for: take it from the queue, or end it within one round."""
        with self._changed:
            job.abort(RequestError("the client left"))
            self._queue.discard(job.client, job)

    def finish(self) -> None:
        """Accept no more jobs, and finish those that were accepted."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def abort(self) -> None:
        """Accept no more jobs, and end all that were accepted, the running one within one round."""
        with self._changed:
            self._closed = True
            while self._queue:
                self._queue.take().fail(_ending())
            if self._running is not None:
                self._running.abort(_ending())
            self._changed.notify()

    def stop(self) -> None:
        """End all jobs and the thread."""
        self.abort()
        self._thread.join()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._answer(job)
            except Exception as error:  # the next answer may succeed
                job.fail(refusal(error))
            self._metrics.count(job)

    def _next(self) -> Job | None:
        """Wait for the next job; None if there will be none."""
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: self._queue or self._closed)
            self._running = self._queue.take() if self._queue else None
            return self._running

    def _answer(self, job: Job) -> None:
        deadline = time.perf_counter() + self._settings.time_limit_seconds
        job.check_wanted()
        token_ids, options = self._intake.prepare(job.request)
        job.prompt_tokens = len(token_ids)
        with contextlib.closing(self._model.stream(token_ids, options)) as pieces:
            for piece in pieces:
                job.check_wanted()
                job.deliver(piece)
                if piece.generation is not None:
                    job.finish(piece.generation.finish_reason, piece.generation.statistics)
                elif time.perf_counter() > deadline:
                    job.finish("length")
                    return


def _ending() -> RequestError:
    return RequestError("the server is shutting down; try again later", status=503)
