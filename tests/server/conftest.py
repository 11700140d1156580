"""The server as it runs, on a port of its own, over a tiny model; and a drafter that holds the model at a round."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import uvicorn

from dovetail_ort.server import ServerSettings, make_app
from dovetail_ort.server.engine import Engine
from dovetail_ort.server.running import bound_socket, make_server
from dovetail_ort_runtime.drafting.drafter import Drafter
from dovetail_ort_runtime.drafting.proposal import Proposal
from dovetail_ort_runtime.model import Model, load_model
from dovetail_ort_runtime.options import GenerationOptions
from dovetail_ort_runtime.text.messages import Message

FORESEEN = "dovetail dovetail dovetail dovetail dovetail"
SECONDS = 30  # of patience: what a test waits for takes a hundredth of it


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that runs."""

    url: str
    server: uvicorn.Server
    engine: Engine

    def client(self, **settings: Any) -> openai.OpenAI:
        """OpenAI's own client; it is for a `with`."""
        settings = {"api_key": "none", "max_retries": 0, "timeout": SECONDS, **settings}
        return openai.OpenAI(base_url=f"{self.url}/v1", **settings)

    def chat(self, text: str = "What holds the pins?", **fields: Any) -> httpx.Response:
        """The raw answer to a question."""
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=SECONDS)


Serve = Callable[..., contextlib.AbstractContextManager[Served]]


@contextlib.contextmanager
def _serving(model: Model, *, grace_seconds: float = SECONDS, **settings: Any) -> Iterator[Served]:
    answer = settings.pop("answer", GenerationOptions(max_new_tokens=400))
    app = make_app(model, ServerSettings(model_name="tiny", answer=answer, **settings))
    server = make_server(app, grace_seconds=grace_seconds, max_connections=100)
    bound = bound_socket("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    host, port = bound.getsockname()
    thread.start()
    try:
        until(lambda: server.started)
        yield Served(url=f"http://{host}:{port}", server=server, engine=app.state.engine)
    finally:
        server.should_exit = True
        thread.join(SECONDS)
    assert not thread.is_alive()


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def serving() -> Serve:
    """`serving(model, **settings)`: a context with a `Served`; settings as in `ServerSettings`."""
    return _serving


@pytest.fixture(scope="session", name="until")
def until_fixture() -> Callable[[Callable[[], bool]], None]:
    """`until(holds)`: wait until something holds."""
    return until


@pytest.fixture(scope="session")
def model(tiny_bundle: Path) -> Model:
    """The tiny model, which copies what it drafts from the text."""
    return load_model(tiny_bundle, threads=1, drafter="lookup")


@pytest.fixture(scope="session")
def served(model: Model) -> Iterator[Served]:
    """The server as it is by default; at the end of all tests it gets the signal to end."""
    with _serving(model) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    """OpenAI's client of `served`."""
    with served.client() as made:
        yield made


class Foresight(Drafter):
    """Proposes the tokens that follow in a text which it was given before.

    Attributes:
        token_ids: prompt and answer.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self._length = 0

    def rewind(self, length: int) -> None:
        """So many tokens are read."""
        self._length = length

    def observe(self, token_ids: np.ndarray, hidden_states: np.ndarray) -> None:
        """These tokens are read too."""
        self._length += len(token_ids)

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """Four tokens after the next one, as far as the text goes."""
        ahead = self.token_ids[self._length + 1 :]
        return Proposal.chain(ahead[: min(4, max_draft_tokens)])


@pytest.fixture(scope="session")
def foreseen(tiny_bundle: Path) -> Iterator[Served]:
    """A server whose answer to `FORESEEN` is drafted, and accepted, on every machine."""
    drafter = Foresight()
    model = load_model(tiny_bundle, threads=1, drafter=drafter)
    messages: list[Message] = [{"role": "user", "content": FORESEEN}]
    answer = model.generate(messages, GenerationOptions(max_new_tokens=400, max_draft_tokens=0))
    drafter.token_ids = [*model.token_ids(messages), *answer.token_ids]
    with _serving(model) as server:
        yield server


class Gate(Drafter):
    """Drafts nothing, and lets only so many rounds begin as it is told.

    Attributes:
        num_rounds: rounds that wait or went through.
    """

    def __init__(self) -> None:
        self.num_rounds = 0
        self._permits = threading.Semaphore(0)

    def open(self, num_rounds: int = 10_000) -> None:
        """Let further rounds through."""
        self._permits.release(num_rounds)

    def rewind(self, length: int) -> None:
        """Nothing is kept."""

    def observe(self, token_ids: np.ndarray, hidden_states: np.ndarray) -> None:
        """Nothing is kept."""

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """Wait at the gate."""
        self.num_rounds += 1
        assert self._permits.acquire(timeout=2 * SECONDS)
        return Proposal.chain([])


@pytest.fixture
def gate() -> Gate:
    """Where the rounds of `gated` wait."""
    return Gate()


@pytest.fixture
def gated(tiny_bundle: Path, gate: Gate) -> Model:
    """The tiny model behind `gate`."""
    return load_model(tiny_bundle, threads=1, drafter=gate)
