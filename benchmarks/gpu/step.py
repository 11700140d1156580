"""One command of a measurement, run with a limit of time; standard library only."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TIMED_OUT: Final = 124
_KEPT_CHARACTERS: Final = 6000


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What is run, and what it needs.

    Attributes:
        name: name of its result.
        arguments: arguments of the environment's Python.
        limit: seconds after which the step is killed.
        needs: archive that must have come, `runtime` or `model`.
        num_cores: number of physical cores that it may use; all if None.
    """

    name: str
    arguments: tuple[str, ...]
    limit: float
    needs: str = "model"
    num_cores: int | None = None


def run_step(step: Step, python: Path, folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run one step and keep what it prints.

    Args:
        step: what is run.
        python: interpreter that runs it.
        folder: folder for its output, `NAME.out` and `NAME.err`.
        environment: environment variables.

    Returns:
        Date, seconds and exit status, 124 if it ran past its limit; `result` where its standard output is one JSON
        object, else the end of it as `output`; and the end of its standard error as `errors` if it failed.
    """
    out = folder / f"{step.name}.out"
    err = folder / f"{step.name}.err"
    started = time.monotonic()
    with out.open("w") as output, err.open("w") as errors:
        process = subprocess.Popen(
            [str(python), *step.arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=dict(environment),
            start_new_session=True,
        )
        if step.num_cores is not None:
            _confine(process.pid, step.num_cores)
        status = _wait(process, step.limit)
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - started, 1),
        "status": status,
    }
    text = out.read_text(errors="replace")
    result = _object(text)
    found |= {"output": text[-_KEPT_CHARACTERS:]} if result is None else {"result": result}
    if status:
        found["errors"] = err.read_text(errors="replace")[-_KEPT_CHARACTERS:]
    return found


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text holds; None for any other text."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def cpus_of(num_cores: int) -> list[int]:
    """One logical processor of each of the first physical cores that this process may use."""
    found: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        found.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    return list(found.values())[:num_cores]


def _confine(pid: int, num_cores: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        os.sched_setaffinity(pid, cpus_of(num_cores))


def _wait(process: subprocess.Popen[bytes], limit: float) -> int:
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return TIMED_OUT
