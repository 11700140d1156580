"""The one thread that the model answers in, and the queue before it. It knows no HTTP."""

from __future__ import annotations

import contextlib
import threading
import time

from dovetail_ort.server.errors import RequestError, refusal
from dovetail_ort.server.fair_queue import FairQueue
from dovetail_ort.server.job import Job
from dovetail_ort.server.metrics import ServerMetrics
from dovetail_ort_runtime.model import Model

class Engine:
    """Gives one answer after the other: a model has one cache, which the next answer uses as far as its prompt agrees.

    Args:
        model: gives the answers; while the engine runs nobody else may ask it for one.
        max_queue: jobs that wait at most.
        time_limit_seconds: an answer ends there, counted from when the model turns to it.
        metrics: what is counted.
    """

    def __init__(self, model: Model, *, max_queue: int, time_limit_seconds: float, metrics: ServerMetrics) -> None:
        self._model, self._metrics = model, metrics
        self._max_queue, self._time_limit = max_queue, time_limit_seconds
        self._queue: FairQueue[Job] = FairQueue()
        self._running: Job | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="dovetail-engine", daemon=True)
        self._timer: threading.Timer | None = None
        metrics.watch(lambda: len(self._queue), lambda: int(self._running is not None))

    def start(self) -> None:
        """Begin to take jobs from the queue."""
        self._thread.start()

    @property
    def serves(self) -> bool:
        """Whether jobs are accepted and answered."""
        return not self._closed and self._thread.is_alive()

    def check_room(self) -> None:
        """Whether a job would be accepted now.

        Raises:
            RequestError: the queue is full, or the server is about to end.
        """
        if self._closed:
            raise _ending()
        if len(self._queue) >= self._max_queue:
            raise RequestError(
                f"the queue must have fewer than {self._max_queue} requests, got {len(self._queue)}; try again later",
                status=429,
                code="rate_limit_exceeded",
            )

    def submit(self, job: Job) -> None:
        """Queue a job; errors as `check_room`."""
        with self._changed:
            self.check_room()
            self._queue.put(job.client, job)
            self._changed.notify()

    def abandon(self, job: Job) -> None:
        """Nobody waits for this job any more: take it from the queue, or end it within one round."""
        with self._changed:
            job.abort(RequestError("a client must wait for its answer, got a closed connection"))
            self._queue.discard(job.client, job)

    def finish_within(self, seconds: float) -> None:
        """Accept no more jobs; after so many seconds end those that are left."""
        self._closed = True
        self._timer = threading.Timer(seconds, self._abort_all)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """End all jobs and the thread; it may be called again."""
        self._abort_all()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread.is_alive():
            self._thread.join()

    def _abort_all(self) -> None:
        with self._changed:
            self._closed = True
            while self._queue:
                self._queue.take().deliver(_ending())
            if self._running is not None:
                self._running.abort(_ending())
            self._changed.notify()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._answer(job)
            except Exception as error:  # the next answer may still succeed
                job.deliver(refusal(error))
            self._metrics.count(job)

    def _next(self) -> Job | None:
        """The next job, as soon as there is one; None when there will be none."""
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: self._queue or self._closed)
            self._running = self._queue.take() if self._queue else None
            return self._running

    def _answer(self, job: Job) -> None:
        job.check_wanted()
        deadline = time.perf_counter() + self._time_limit
        with contextlib.closing(self._model.stream(job.token_ids, job.options)) as pieces:
            for piece in pieces:
                job.check_wanted()
                job.deliver(piece)
                if piece.generation is not None:
                    job.finish(piece.generation.finish_reason, piece.generation.statistics)
                elif time.perf_counter() > deadline:
                    job.finish("length")
                    return


def _ending() -> RequestError:
    return RequestError("the server is about to end and takes no more requests", status=503)
