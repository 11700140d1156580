"""Clients that ask one request after the other, and judge each answer."""

from __future__ import annotations

import asyncio
import collections
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import openai

from benchmarks.serve_load.conversations import SCHEMA, Turn

PATIENCE_SECONDS: Final = 120.0
# The share of the streams that their client closes early.
_CLOSED_EARLY: Final = 1 / 8
_MAX_CHUNKS: Final = 12


@dataclass(kw_only=True, slots=True)
class Record:
    """What the clients saw.

    Attributes:
        finished: number of answers that came to their end and were right.
        closed: number of streams that their client closed, right up to there.
        errors: number of all other requests, by what went wrong.
        tokens: number of tokens of the finished answers.
        first_ms: milliseconds from the request to its first text, waiting included, for each request.
        turn_ms: milliseconds from the start of the request's turn to its first token, as the server reports it.
        between_ms: milliseconds from a chunk with text to the next one.
    """

    finished: int = 0
    closed: int = 0
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    tokens: int = 0
    first_ms: list[float] = field(default_factory=list)
    turn_ms: list[float] = field(default_factory=list)
    between_ms: list[float] = field(default_factory=list)


async def ask_until(
    deadline: float, url: str, conversations: Sequence[Sequence[Turn]], num_clients: int, record: Record
) -> None:
    """Let the clients ask until the deadline, in seconds of `time.perf_counter`."""
    clients = (_client(url, number, conversations, deadline, record) for number in range(num_clients))
    await asyncio.gather(*clients)


async def _client(
    url: str, number: int, conversations: Sequence[Sequence[Turn]], deadline: float, record: Record
) -> None:
    chance = random.Random(number)
    transport = httpx.AsyncHTTPTransport(local_address=f"127.0.0.{number + 1}")
    # openai names its own copy of httpx in its types, and takes this one.
    connection: Any = httpx.AsyncClient(transport=transport, timeout=PATIENCE_SECONDS)
    async with (
        connection,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=connection) as client,
    ):
        model_name = (await client.models.list()).data[0].id
        while time.perf_counter() < deadline:
            for turn in chance.choice(conversations):
                close_after = chance.randint(1, _MAX_CHUNKS) if chance.random() < _CLOSED_EARLY else None
                try:
                    await _ask(client, model_name, turn, close_after, record)
                except (openai.APIError, httpx.TransportError) as error:
                    record.errors[f"{type(error).__name__} {getattr(error, 'status_code', '')}".strip()] += 1


async def _ask(
    client: openai.AsyncOpenAI, model_name: str, turn: Turn, close_after: int | None, record: Record
) -> None:
    """Stream one answer, or its first `close_after` chunks with text, and judge it."""
    asked = time.perf_counter()
    stream = await client.chat.completions.create(**_fields(model_name, turn))
    texts: list[str] = []
    ended: list[Any] = []
    usage = None
    last = asked
    async with stream:
        async for chunk in stream:
            usage = chunk.usage or usage
            ended += [chunk for choice in chunk.choices if choice.finish_reason]
            text = "".join(choice.delta.content or "" for choice in chunk.choices)
            if not text:
                continue
            now = time.perf_counter()
            (record.between_ms if texts else record.first_ms).append(1000 * (now - last))
            last = now
            texts.append(text)
            if len(texts) == close_after:
                break
    _judge(turn, "".join(texts), ended, usage, closed=len(texts) == close_after, record=record)


def _fields(model_name: str, turn: Turn) -> dict[str, Any]:
    rule = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    return {
        "model": model_name,
        "messages": turn.messages,
        "max_tokens": turn.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"response_format": rule} if turn.constrained else {}),
    }


def _judge(turn: Turn, text: str, ended: list[Any], usage: Any, *, closed: bool, record: Record) -> None:
    if not (turn.text.startswith(text) if closed else turn.text == text or not ended):
        record.errors["another answer than the lone model's"] += 1
    elif closed:
        record.closed += 1
    elif len(ended) != 1 or usage is None:
        record.errors["a stream without its end"] += 1
    elif ended[0].choices[0].finish_reason != turn.finish_reason:
        record.errors["another finish_reason than the lone model's"] += 1
    else:
        record.finished += 1
        record.tokens += usage.completion_tokens
        record.turn_ms.append(1000 * ended[0].dovetail["time_to_first_token_seconds"])
