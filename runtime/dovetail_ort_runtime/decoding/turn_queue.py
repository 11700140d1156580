"""Whose turn it is: the answers of one model follow one another, whichever threads ask for them. It knows no model."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from dovetail_ort_runtime.errors import ModelUseError

ResultT = TypeVar("ResultT")


class TurnQueue:
    """A queue of callers, first come, first served; the first one has the turn.

    Any thread may advance the generator that `each` returns, one thread at a time. The generator may be
    garbage-collected at any point, even while a thread runs a line of this class, and then gives its turn back. A lock
    around the queue could therefore deadlock, so there is none. Each single operation on a deque is atomic.
    """

    def __init__(self) -> None:
        self._queue: deque[_Place] = deque()
        # Held while a call runs or an item is made, not between two items.
        self._work = threading.RLock()
        self._process_id = os.getpid()
        self._closed = False

    def run(self, call: Callable[[], ResultT]) -> ResultT:
        """What `call` returns or raises, in a turn of its own.

        Raises:
            ModelUseError: as in `each`.
        """
        with self._turn() as place:
            return self._run(place, call)

    def each(self, items: Iterator[ResultT]) -> Generator[ResultT, None, None]:
        """Items that are not None, all in one turn.

        The turn is waited for when the first item is asked for. It ends after the last item, with an exception, with
        the generator's `close()`, or when the generator is garbage-collected.

        Raises:
            ModelUseError: there are no turns, as in `check`; or this thread would wait for itself, because it was the
                last to advance the generator that has the turn.
        """
        with self._turn() as place:
            while True:
                item = self._run(place, partial(next, items, None))
                if item is None:
                    return
                yield item

    def check(self) -> None:
        """Refuse any use once the queue is closed, or in a process that did not make it.

        Raises:
            ModelUseError: the queue is closed, or another process made it.
        """
        if not self.belongs_here:
            raise ModelUseError(
                f"this model was loaded by process {self._process_id} and cannot be used in its child {os.getpid()}; "
                "load the bundle again in the child"
            )
        if self._closed:
            raise ModelUseError("this model is closed; load the bundle again")

    @property
    def belongs_here(self) -> bool:
        """Whether this process made the queue."""
        return os.getpid() == self._process_id

    def close(self, release: Callable[[], None]) -> None:
        """End all turns: each raises ModelUseError at its next item.

        Args:
            release: called once nothing runs any more.
        """
        self._closed = True
        for place in self._queue.copy():
            place.wake()
        with self._work:
            release()

    @contextmanager
    def _turn(self) -> Iterator[_Place]:
        place = _Place()
        try:
            self._queue.append(place)
            self._wait(place)
            yield place
        finally:
            # An interruption may come before the place is in the queue.
            with suppress(ValueError):
                self._queue.remove(place)
            # Nobody else may wait.
            with suppress(IndexError):
                self._queue[0].wake()

    def _wait(self, place: _Place) -> None:
        # The place is in the queue already, so `close` wakes it from here on.
        self.check()
        first = self._queue[0]
        if first is place:
            return
        if first.thread is place.thread:
            raise ModelUseError(
                "this thread still has an open answer; read it to its end, or call close() on the stream, before you "
                "ask for the next one"
            )
        place.woken.acquire()

    def _run(self, place: _Place, call: Callable[[], ResultT]) -> ResultT:
        # In a child process the lock may be held by a thread that only the parent has.
        self.check()
        with self._work:
            # The queue may have been closed while this thread waited.
            self.check()
            place.thread = threading.current_thread()
            return call()


class _Place:
    """A place in the queue.

    Attributes:
        woken: lock that is held until the place is the first one.
        thread: the last thread that went on with the place.
    """

    def __init__(self) -> None:
        self.woken = threading.Lock()
        self.woken.acquire()
        self.thread = threading.current_thread()

    def wake(self) -> None:
        """Let the place's thread go on; further calls do nothing."""
        with suppress(RuntimeError):
            self.woken.release()
