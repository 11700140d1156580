"""The queue before a model, with iterators of numbers instead of answers."""

from __future__ import annotations

import gc
import itertools
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dovetail_ort_runtime.decoding.turn_queue import TurnQueue
from dovetail_ort_runtime.errors import ModelUseError

SECONDS = 20  # a test that has waited so long fails


@pytest.fixture
def turns():
    return TurnQueue()


@pytest.fixture
def executor():
    with ThreadPoolExecutor(max_workers=12) as threads:
        yield threads


def wait_until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def queued(turns, number):
    """Wait until so many places are taken, the one that has the turn included."""
    wait_until(lambda: len(turns._queue) == number)


def test_who_comes_first_is_served_first(turns, executor):
    served = []
    stream = turns.each(iter("ab"))
    next(stream)
    futures = []
    for number in range(10):
        futures.append(executor.submit(turns.run, lambda number=number: served.append(number)))
        queued(turns, number + 2)
    assert not served
    stream.close()
    for future in futures:
        future.result(SECONDS)
    assert served == list(range(10))


def test_items_of_two_threads_never_mix(turns, executor):
    served = []

    def read(name):
        for item in turns.each(iter([name] * 50)):
            served.append(item)
            time.sleep(0)

    list(executor.map(read, "abcdefgh", timeout=SECONDS))
    assert sorted(name for name, _ in itertools.groupby(served)) == list("abcdefgh")


@pytest.mark.parametrize("end", ["read", "close", "drop", "cycle", "exception"])
def test_a_turn_ends_with_its_generator(turns, executor, end):
    def items():
        yield 1
        if end == "exception":
            raise KeyError

    stream = turns.each(items())
    assert next(stream) == 1
    waiting = executor.submit(turns.run, lambda: "served")
    queued(turns, 2)
    match end:
        case "read":
            assert list(stream) == []
        case "close":
            stream.close()
        case "drop":
            del stream
        case "cycle":
            cycle = [stream]
            cycle.append(cycle)
            del stream, cycle
            gc.collect()
        case "exception":
            with pytest.raises(KeyError):
                next(stream)
    assert waiting.result(SECONDS) == "served"
    assert turns.run(lambda: "served") == "served"


def test_a_generator_that_was_never_advanced_takes_no_turn(turns):
    stream = turns.each(iter("ab"))
    assert turns.run(lambda: 5) == 5
    assert list(stream) == ["a", "b"]


def test_a_thread_that_would_wait_for_itself_gets_an_error(turns):
    stream = turns.each(iter("abc"))
    assert next(stream) == "a"
    with pytest.raises(ModelUseError, match=r"this thread still has an open answer; .* call close\(\)"):
        next(turns.each(iter("d")))
    with pytest.raises(ModelUseError, match="this thread still has an open answer"):
        turns.run(lambda: 5)
    assert list(stream) == ["b", "c"]
    assert turns.run(lambda: 5) == 5


def test_a_call_within_a_turn_that_asks_for_another_gets_an_error(turns):
    with pytest.raises(ModelUseError, match="this thread still has an open answer"):
        turns.run(lambda: turns.run(lambda: 5))
    assert turns.run(lambda: 5) == 5


def test_a_handed_over_generator_is_the_turn_of_the_thread_that_advances_it(turns, executor):
    stream = turns.each(iter("abc"))
    assert next(stream) == "a"
    assert executor.submit(next, stream).result(SECONDS) == "b"
    # The other thread advanced it last, so this one waits, until the other ends it.
    ending = executor.submit(lambda: (queued(turns, 2), stream.close()))
    assert turns.run(lambda: 5) == 5
    ending.result(SECONDS)


def test_an_interruption_while_waiting_gives_the_place_up(turns, executor):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    stream = executor.submit(lambda: [stream := turns.each(iter("ab")), next(stream)]).result(SECONDS)[0]
    usual = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            turns.run(lambda: 5)
    finally:
        signal.signal(signal.SIGALRM, usual)
    queued(turns, 1)
    stream.close()
    assert turns.run(lambda: 5) == 5


def test_closing_ends_the_turn_and_those_that_wait(turns, executor):
    stream = turns.each(iter("abc"))
    assert next(stream) == "a"
    waiting = [executor.submit(turns.run, lambda: 5) for _ in range(3)]
    queued(turns, 4)
    released = []
    turns.close(lambda: released.append(True))
    assert released
    for future in waiting:
        with pytest.raises(ModelUseError, match="this model is closed"):
            future.result(SECONDS)
    with pytest.raises(ModelUseError, match="this model is closed"):
        next(stream)
    with pytest.raises(ModelUseError, match="this model is closed"):
        turns.run(lambda: 5)


def test_closing_waits_for_what_runs(turns, executor):
    going, go_on = threading.Event(), threading.Event()
    events = []

    def work():
        going.set()
        assert go_on.wait(SECONDS)
        events.append("worked")

    running = executor.submit(turns.run, work)
    assert going.wait(SECONDS)
    closing = executor.submit(turns.close, lambda: events.append("released"))
    wait_until(lambda: turns._closed)
    go_on.set()
    closing.result(SECONDS)
    running.result(SECONDS)
    assert events == ["worked", "released"]


def test_a_thousand_turns_of_threads_that_drop_and_finish_leave_an_empty_queue(turns, executor):
    def use(number):
        for step in range(100):
            stream = turns.each(iter(range(3)))
            if (number + step) % 3:
                assert list(stream) == [0, 1, 2]
            else:
                assert next(stream) == 0
            del stream

    list(executor.map(use, range(10), timeout=5 * SECONDS))
    assert not turns._queue
