"""Both sides of the comparison as processes that answer requests, one at a time."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

BEFORE: Final = "f2faf98"
AFTER: Final = "native"
PROGRAM: Final = Path(__file__).with_name("worker.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Where a side runs, and on what.

    Attributes:
        interpreter: Python of an environment in which the commit of the side is installed.
        bundle: directory of the bundle that this commit exported.
    """

    interpreter: Path
    bundle: Path


Sides = Mapping[str, Side]


class SideProcess:
    """A running `worker`."""

    def __init__(self, side: Side) -> None:
        self._process = subprocess.Popen(
            [side.interpreter, PROGRAM, side.bundle],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a request of `worker.REQUESTS`.

        Raises:
            RuntimeError: the process ended; what it wrote on standard error says why.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": request, **arguments}), file=process.stdin, flush=True)
        line = process.stdout.readline()
        if not line:
            status = process.wait()
            raise RuntimeError(f"{process.args!r} ended with status {status} while it had to answer {request!r}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process and wait for it."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()


Running = dict[str, SideProcess]


@contextlib.contextmanager
def running(sides: Sides) -> Iterator[Running]:
    """New processes of all sides, by name."""
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, side in sides.items():
            process = SideProcess(side)
            stack.callback(process.close)
            processes[name] = process
        yield processes


def store_times(sides: Sides, *, thorough: bool) -> None:
    """Let one side after the other measure the times that its planner reads, and store them for later loads."""
    for name, side in sides.items():
        with running({name: side}) as processes:
            processes[name].ask("load", tune=thorough)
