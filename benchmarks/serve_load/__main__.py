"""Put the server under load, and write `serve-load.json`.

    python -m benchmarks.serve_load BUNDLE [SECONDS] [CLIENTS]

Exit status 1 if an answer was lost, cut or another one than the model gives alone.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

import dovetail_ort
from benchmarks.machine import write_result
from benchmarks.serve_load.clients import PATIENCE_SECONDS, Record, ask_until
from benchmarks.serve_load.conversations import Turn, conversations
from benchmarks.serve_load.server import Sample, running_server, sample

SAMPLE_SECONDS: Final = 1.0
PACKAGES: Final = ("openai", "starlette", "uvicorn", "llguidance")


def main(bundle: str, seconds: str = "600", clients: str = "16") -> int:
    """Measure, write the result, and judge: the exit status."""
    with dovetail_ort.load(bundle) as model:
        asked = conversations(model)
    record = Record()
    with running_server(bundle) as (process, url):
        started = time.perf_counter()
        samples = asyncio.run(_load(process.pid, url, asked, float(seconds), int(clients), record))
        elapsed = time.perf_counter() - started
        process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE_SECONDS)
    result = {
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "clients": int(clients),
        "seconds": round(elapsed, 1),
        "different_requests": sum(map(len, asked)),
        **_answers(record, elapsed),
        **_process(samples, elapsed),
        "server_exit_status": status,
    }
    write_result("serve-load", result)
    return 1 if record.errors or status else 0


async def _load(
    pid: int, url: str, asked: Sequence[Sequence[Turn]], seconds: float, num_clients: int, record: Record
) -> list[Sample]:
    """The server's process, every `SAMPLE_SECONDS`, while the clients ask."""
    started = time.perf_counter()
    samples = [sample(pid, 0.0)]

    async def watch() -> None:
        while (now := time.perf_counter() - started) < seconds:
            await asyncio.sleep(SAMPLE_SECONDS)
            samples.append(sample(pid, now))
            counts = f"{record.finished} finished, {sum(record.errors.values())} errors"
            print(f"\r{now:.0f} s, {counts}", end="", file=sys.stderr, flush=True)

    await asyncio.gather(watch(), ask_until(started + seconds, url, asked, num_clients, record))
    samples.append(sample(pid, time.perf_counter() - started))
    print(file=sys.stderr)
    return samples


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
    """What the process holds: memory of the last tenth of the time is compared with that of the second tenth.

    The first tenth is left out, because memory is touched for the first time there.
    """
    seconds = np.array([one.seconds for one in samples])
    megabytes = np.array([one.resident_bytes for one in samples]) / 1e6
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
