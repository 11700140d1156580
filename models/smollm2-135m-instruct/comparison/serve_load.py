"""`dovetail-ort serve` under the load of several clients at once; every answer is compared with the lone model's.

    python serve_load.py BUNDLE [SECONDS] [CLIENTS] > result.json

Beforehand the library answers each request alone, greedily and without speculation. Then the server runs as a process
of its own, and each client, from an address of its own (127.0.0.1, 127.0.0.2, ...; Linux), streams one request after
the other through OpenAI's client: the general prompts and HumanEval's, some with a second turn, some held to a JSON
schema, some closed early. Exit status 1 if an answer was lost, cut or another one.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime
import importlib.metadata
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import openai

import dovetail_ort
from dovetail_ort import GenerationOptions, Message, Model, SamplingOptions
from dovetail_ort.grammar import GrammarCompiler
from dovetail_ort.suites import HUMANEVAL, load_suite
from dovetail_ort_runtime.machine.environment import onnxruntime_distributions, processor_name

GENERAL: Final = Path(__file__).parents[1] / "general_prompts.jsonl"
HUMANEVAL_STEP: Final = 4  # every fourth prompt, so that both suites weigh the same
MAX_TOKENS: Final = (16, 32, 48, 64)
FOLLOW_UP: Final = "Say the same in one short sentence."
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 40}, "useful": {"type": "boolean"}},
    "required": ["title", "useful"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
CLOSED_EARLY: Final = 1 / 8
PATIENCE_SECONDS: Final = 120.0
PACKAGES: Final = ("dovetail-ort", "openai", "starlette", "uvicorn", "llguidance")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One request and what the lone model answers.

    Attributes:
        messages: the conversation up to the answer.
        max_tokens: of the answer.
        constrained: whether it is held to `SCHEMA`.
        text: the answer.
        finish_reason: why it ended there.
    """

    messages: Sequence[Message]
    max_tokens: int
    constrained: bool
    text: str
    finish_reason: str


@dataclass(kw_only=True, slots=True)
class Record:
    """What the clients saw.

    Attributes:
        finished: answers that came to their end and were right.
        closed: streams that their client closed, right so far.
        errors: all other requests, by what went wrong.
        tokens: of the finished answers.
        first_ms: from the request to its first text, waiting included.
        turn_ms: the same from the model's turn on, as the server tells it at an answer's end.
        between_ms: from a chunk with text to the next one.
    """

    finished: int = 0
    closed: int = 0
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    tokens: int = 0
    first_ms: list[float] = field(default_factory=list)
    turn_ms: list[float] = field(default_factory=list)
    between_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The server's process at one moment: since the load began, and what it holds."""

    seconds: float
    resident_bytes: int
    threads: int
    open_files: int


def main(bundle: str, seconds: str = "600", clients: str = "16") -> int:
    """Measure, print JSON, judge."""
    with dovetail_ort.load(bundle) as model:
        conversations = _conversations(model)
    record = Record()
    with _server(bundle) as (process, url):
        started = time.perf_counter()
        samples = asyncio.run(_load(process.pid, url, conversations, float(seconds), int(clients), record))
        elapsed = time.perf_counter() - started
        process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE_SECONDS)
    result = {
        "machine": processor_name(),
        "date": datetime.date.today().isoformat(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        **onnxruntime_distributions(),
        "clients": int(clients),
        "seconds": round(elapsed, 1),
        "different_requests": sum(map(len, conversations)),
        **_answers(record, elapsed),
        **_process(samples, elapsed),
        "server_exit_status": status,
    }
    print(json.dumps(result, indent=2))
    return 1 if record.errors or status else 0


def _conversations(model: Model) -> list[list[Turn]]:
    """Every third has a second turn, every eighth is held to the schema."""
    prompts = [*load_suite(str(GENERAL)), *load_suite(HUMANEVAL)[::HUMANEVAL_STEP]]
    compiler = GrammarCompiler(model)
    found = []
    for number, prompt in enumerate(prompts):
        max_tokens = MAX_TOKENS[number % len(MAX_TOKENS)]
        turns = [_answered(model, compiler, prompt.messages, max_tokens, constrained=number % 8 == 0)]
        if number % 3 == 0:
            answer: Message = {"role": "assistant", "content": turns[0].text}
            messages = [*prompt.messages, answer, {"role": "user", "content": FOLLOW_UP}]
            turns.append(_answered(model, compiler, messages, max_tokens, constrained=False))
        found.append(turns)
        print(f"\r{number + 1}/{len(prompts)} conversations answered alone", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def _answered(
    model: Model, compiler: GrammarCompiler, messages: Sequence[Message], max_tokens: int, *, constrained: bool
) -> Turn:
    options = GenerationOptions(
        max_new_tokens=max_tokens,
        max_draft_tokens=0,
        sampling=SamplingOptions(),
        constraint=compiler.json_schema(SCHEMA) if constrained else None,
    )
    model.reset()
    answer = model.generate(messages, options)
    return Turn(
        messages=messages,
        max_tokens=max_tokens,
        constrained=constrained,
        text=answer.text,
        finish_reason=answer.finish_reason,
    )


@contextlib.contextmanager
def _server(bundle: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "dovetail_ort", "serve", bundle, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            address = re.search(r"http://\S+?:\d+", line)
            if address is None:
                raise RuntimeError(f"the server must tell its address, got {line!r}")
            yield process, address[0]
        finally:
            process.kill()  # nothing where it has ended


async def _load(
    pid: int, url: str, conversations: list[list[Turn]], seconds: float, num_clients: int, record: Record
) -> list[Sample]:
    """The server's process, once a second, while the clients ask."""
    started = time.perf_counter()
    samples = [_sample(pid, 0.0)]

    async def watch() -> None:
        while (now := time.perf_counter() - started) < seconds:
            await asyncio.sleep(1)
            samples.append(_sample(pid, now))
            counts = f"{record.finished} finished, {sum(record.errors.values())} errors"
            print(f"\r{now:.0f} s, {counts}", end="", file=sys.stderr, flush=True)

    deadline = started + seconds
    clients = (_client(url, number, conversations, deadline, record) for number in range(num_clients))
    await asyncio.gather(watch(), *clients)
    samples.append(_sample(pid, time.perf_counter() - started))
    print(file=sys.stderr)
    return samples


def _sample(pid: int, seconds: float) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads"))
    return Sample(
        seconds=seconds,
        resident_bytes=kilobytes * 1024,
        threads=threads,
        open_files=len(list(Path(f"/proc/{pid}/fd").iterdir())),
    )


async def _client(url: str, number: int, conversations: list[list[Turn]], deadline: float, record: Record) -> None:
    chance = random.Random(number)
    transport = httpx.AsyncHTTPTransport(local_address=f"127.0.0.{number + 1}")
    async with (
        httpx.AsyncClient(transport=transport, timeout=PATIENCE_SECONDS) as connection,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=connection) as client,
    ):
        model_name = (await client.models.list()).data[0].id
        while time.perf_counter() < deadline:
            for turn in chance.choice(conversations):
                close_after = chance.randint(1, 12) if chance.random() < CLOSED_EARLY else None
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
            if not (text := "".join(choice.delta.content or "" for choice in chunk.choices)):
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


def _answers(record: Record, elapsed: float) -> dict[str, Any]:
    return {
        "finished": record.finished,
        "closed_early": record.closed,
        "errors": dict(record.errors),
        "tokens_per_second": round(record.tokens / elapsed, 1),
        "first_token_ms": _percentiles(record.first_ms),
        "first_token_without_waiting_ms": _percentiles(record.turn_ms),
        "each_token_ms": _percentiles(record.between_ms),
    }


def _process(samples: Sequence[Sample], elapsed: float) -> dict[str, Any]:
    """Memory of the last tenth of the time over that of the second tenth, behind the first touches."""
    seconds = np.array([sample.seconds for sample in samples])
    megabytes = np.array([sample.resident_bytes for sample in samples]) / 1e6
    later = seconds > elapsed / 10
    second = megabytes[later & (seconds <= elapsed / 5)].mean()
    last = megabytes[seconds >= 0.9 * elapsed].mean()
    return {
        "resident_megabytes": {
            "first": round(megabytes[0], 1),
            "second_tenth": round(second, 1),
            "last_tenth": round(last, 1),
            "last_over_second": round(last / second, 4),
            "per_minute_after_first_tenth": round(60 * np.polyfit(seconds[later], megabytes[later], 1)[0], 3),
        },
        "threads": {"first": samples[0].threads, "last": samples[-1].threads},
        "open_files": {"first": samples[0].open_files, "last": samples[-1].open_files},
    }


def _percentiles(times_ms: list[float]) -> dict[str, float]:
    if not times_ms:
        return {}
    p50, p99 = np.percentile(times_ms, [50, 99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "max": round(max(times_ms), 2)}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
