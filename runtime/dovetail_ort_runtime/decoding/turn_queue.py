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


class Turns:
    """A queue, first come, first served, whose first has the turn.

    What `each` returns may be advanced by any thread, one at a time. It may also be dropped, and then gives its turn
    back where the garbage collector finds it, be it amid the lines of this class: so the queue has no lock, which that
    could wait for in vain. Single operations of a deque are atomic.
    """

    def __init__(self) -> None:
        self._queue: deque[_Place] = deque()
        self._work = threading.RLock()  # held while a call runs or an item is made, not between two items
        self._process_id = os.getpid()
        self._closed = False

    def run(self, call: Callable[[], ResultT]) -> ResultT:
        """What `call` returns or raises, in a turn of its own; errors as `each`."""
        with self._turn() as place:
            return self._run(place, call)

    def each(self, items: Iterator[ResultT]) -> Generator[ResultT, None, None]:
        """Items that are not None, all in one turn, which is waited for when the first is asked for.

        The turn ends behind the last item, with an exception, with the generator's `close()` or with the generator.

        Raises:
            ModelUseError: as `check`; or this thread, the last to advance the generator that has the turn, would wait
                for itself.
        """
        with self._turn() as place:
            while (item := self._run(place, partial(next, items, None))) is not None:
                yield item

    def check(self) -> None:
        """Raise ModelUseError where there are no turns: they are closed, or this process did not make them."""
        if not self.belongs_here:
            raise ModelUseError(
                f"a model must be used in the process that loaded it, {self._process_id}, got its child {os.getpid()}; "
                "load the bundle again in the child"
            )
        if self._closed:
            raise ModelUseError("a model must be open to be used, got one that was closed; load the bundle again")

    @property
    def belongs_here(self) -> bool:
        """Whether this process made the queue."""
        return os.getpid() == self._process_id

    def close(self, release: Callable[[], None]) -> None:
        """End all turns, which raise ModelUseError at their next item; `release` is called when nothing runs."""
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
            with suppress(ValueError):  # interrupted before it was in the queue
                self._queue.remove(place)
            with suppress(IndexError):
                self._queue[0].wake()

    def _wait(self, place: _Place) -> None:
        self.check()  # in this order: what is closed from here on finds the place in the queue
        first = self._queue[0]
        if first is place:
            return
        if first.thread is place.thread:
            raise ModelUseError(
                "a thread must read its answer to the end or close it before it asks for the next, got one still open; "
                "call close() on the stream"
            )
        place.woken.acquire()

    def _run(self, place: _Place, call: Callable[[], ResultT]) -> ResultT:
        self.check()  # in a child the lock may be held by a thread that is not there
        with self._work:
            self.check()  # it may have been closed since
            place.thread = threading.current_thread()
            return call()


class _Place:
    """A place in the queue."""

    def __init__(self) -> None:
        self.woken = threading.Lock()  # held until the place is the first
        self.woken.acquire()
        self.thread = threading.current_thread()  # the last one that went on with it

    def wake(self) -> None:
        """Let it go on; more than once is as good as once."""
        with suppress(RuntimeError):
            self.woken.release()
