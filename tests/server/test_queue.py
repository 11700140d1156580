"""Requests that wait, leave, are turned away, or meet a server that ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort.server.engine import FairQueue

ITEMS = st.lists(st.sampled_from("abc"), max_size=20)
MESSAGES = [{"role": "user", "content": "What holds the pins?"}]


def metric(served, name):
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@pytest.fixture
def abandoned(monkeypatch):
    """Set as soon as the server knows that a client left."""
    from dovetail_ort.server.engine import Engine

    told = threading.Event()
    abandon = Engine.abandon

    def tell(engine, job):
        abandon(engine, job)
        told.set()

    monkeypatch.setattr(Engine, "abandon", tell)
    return told


@pytest.fixture
def pool():
    with ThreadPoolExecutor() as executor:
        yield executor


def test_requests_that_come_at_once_are_all_answered(served, pool):
    answers = list(pool.map(lambda _: served.chat(max_tokens=20).json(), range(8)))
    assert len({answer["choices"][0]["message"]["content"] for answer in answers}) == 1


def test_a_full_queue_answers_429_and_takes_requests_again_afterwards(serving, gated, gate, pool, until):
    with serving(gated, max_queue=1) as served:
        running = pool.submit(served.chat)
        until(lambda: gate.num_rounds == 1)
        waiting = pool.submit(served.chat)
        until(lambda: metric(served, "dovetail_queue_length") == 1)
        refused = served.chat()
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.headers["retry-after"] == "1"
        with (
            served.client() as client,
            pytest.raises(openai.RateLimitError, match="the queue is full, with 1 requests"),
        ):
            client.chat.completions.create(model="tiny", messages=MESSAGES)
        gate.open()
        assert (running.result().status_code, waiting.result().status_code) == (200, 200)
        assert served.chat().status_code == 200


def test_a_client_that_leaves_its_stream_frees_the_model_within_one_round(serving, gated, gate, abandoned, until):
    with serving(gated) as served:
        gate.open(3)
        with served.client() as client:
            stream = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, logprobs=True)
            for _ in range(4):  # who speaks, the first token, two rounds
                next(stream)
            until(lambda: gate.num_rounds == 4)
            stream.close()
            assert abandoned.wait(10)
        gate.open(1)  # the round that was running
        until(lambda: metric(served, "dovetail_running") == 0)
        assert gate.num_rounds == 4
        assert metric(served, 'dovetail_answers_total{finish_reason="aborted"}') == 1
        gate.open()
        assert served.chat().status_code == 200


def test_a_client_that_leaves_before_the_whole_answer_frees_the_model_too(serving, gated, gate, abandoned, until):
    with serving(gated) as served:
        with served.client(timeout=0.5) as client, pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model="tiny", messages=MESSAGES)
        assert abandoned.wait(10)
        gate.open(1)
        until(lambda: metric(served, "dovetail_running") == 0)
        assert gate.num_rounds == 1


def test_a_client_that_leaves_the_queue_leaves_its_place(serving, gated, gate, abandoned, pool, until):
    with serving(gated) as served:
        running = pool.submit(served.chat)
        until(lambda: gate.num_rounds == 1)
        with served.client(timeout=0.5) as client, pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model="tiny", messages=MESSAGES)
        assert abandoned.wait(10)
        assert metric(served, "dovetail_queue_length") == 0
        gate.open()
        assert running.result().status_code == 200


def test_the_answer_after_one_that_was_left_is_the_same_as_ever(serving, gated, gate, abandoned, model):
    expected = model.generate(MESSAGES).text
    with serving(gated) as served, served.client() as client:
        gate.open(3)
        stream = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "3 €"}], stream=True
        )
        next(stream)
        stream.close()
        assert abandoned.wait(10)
        gate.open()
        answer = client.chat.completions.create(model="tiny", messages=MESSAGES)
        assert expected.startswith(answer.choices[0].message.content)
        assert answer.usage.completion_tokens > 100


def test_the_time_limit_ends_an_answer_as_the_token_limit_does(serving, gated, gate, pool, until):
    with serving(gated, time_limit_seconds=0.2) as served:
        answer = pool.submit(served.chat, max_tokens=300)
        until(lambda: gate.num_rounds == 1)
        threading.Event().wait(0.3)
        gate.open(1)
        found = answer.result().json()
        assert found["choices"][0]["finish_reason"] == "length"
        assert found["usage"]["completion_tokens"] == 2
        assert found["usage"]["prompt_tokens_details"]["cached_tokens"] is None
        assert found["dovetail"] == {}


def test_shutdown_finishes_what_runs_and_what_waits(serving, gated, gate, pool, until):
    with serving(gated) as served:
        running = pool.submit(served.chat, max_tokens=20)
        until(lambda: gate.num_rounds == 1)
        waiting = pool.submit(served.chat, max_tokens=20)
        until(lambda: metric(served, "dovetail_queue_length") == 1)
        served.server.should_exit = True
        until(lambda: not served.engine.serves)
        with pytest.raises(httpx.ConnectError):
            served.chat()
        gate.open()
        answers = [running.result().json(), waiting.result().json()]
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [20, 20]


def test_shutdown_ends_what_its_grace_does_not_suffice_for(serving, gated, gate, pool, until):
    with serving(gated, grace_seconds=0) as served:
        running, waiting = (pool.submit(served.chat) for _ in range(2))
        until(lambda: gate.num_rounds == 1 and metric(served, "dovetail_queue_length") == 1)
        served.server.should_exit = True
        until(lambda: not served.engine.serves)
        gate.open(1)
        for ended in (running.result(), waiting.result()):
            assert ended.status_code == 503
            assert ended.json()["error"]["type"] == "server_error"


def test_an_error_within_a_stream_is_an_event_of_it(serving, gated, gate, until):
    with serving(gated) as served, served.client() as client:
        stream = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, logprobs=True)
        next(stream)
        until(lambda: gate.num_rounds == 1)
        served.engine.abort()
        gate.open()
        with pytest.raises(openai.APIError, match="the server is shutting down"):
            list(stream)


def filled(clients):
    queue = FairQueue()
    for place, client in enumerate(clients):
        queue.put(client, (client, place))
    return queue


def test_a_client_with_many_items_does_not_hold_up_one_with_a_single_item():
    queue = filled("aaab")
    assert [queue.take() for _ in range(4)] == [("a", 0), ("b", 3), ("a", 1), ("a", 2)]


@given(ITEMS)
def test_every_item_comes_out_once_and_each_client_s_in_their_order(clients):
    queue = filled(clients)
    assert len(queue) == len(clients)
    taken = [queue.take() for _ in clients]
    assert len(queue) == 0
    for client in set(clients):
        own = [place for of, place in taken if of == client]
        assert own == [place for place, of in enumerate(clients) if of == client]


@given(ITEMS)
def test_no_client_gets_a_second_turn_while_another_waits_for_its_first(clients):
    queue = filled(clients)
    num_clients = len(set(clients))
    assert len({queue.take()[0] for _ in range(num_clients)}) == num_clients


@given(ITEMS, st.data())
def test_a_discarded_item_does_not_come_out(clients, data):
    queue = filled(clients)
    gone = {place for place in range(len(clients)) if data.draw(st.booleans())}
    for place in gone:
        queue.discard(clients[place], (clients[place], place))
        queue.discard(clients[place], (clients[place], place))  # it may be gone already
    assert len(queue) == len(clients) - len(gone)
    assert {queue.take()[1] for _ in range(len(queue))} == set(range(len(clients))) - gone
