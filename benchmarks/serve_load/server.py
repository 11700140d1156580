"""The server as a process of its own, and what it holds of the system."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The server's process at one moment.

    Attributes:
        seconds: seconds since the load began.
        resident_bytes: resident memory.
        threads: number of threads.
        open_files: number of open files.
    """

    seconds: float
    resident_bytes: int
    threads: int
    open_files: int


@contextlib.contextmanager
def running_server(bundle: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of a bundle on a free port: its process and its address.

    Raises:
        RuntimeError: the server printed no address.
    """
    command = [sys.executable, "-m", "dovetail_ort", "serve", bundle, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            address = re.search(r"http://\S+?:\d+", line)
            if address is None:
                raise RuntimeError(f"The server printed no address, but {line!r}")
            yield process, address[0]
        finally:
            process.kill()  # does nothing if it has ended


def sample(pid: int, seconds: float) -> Sample:
    """What the process holds now, `seconds` after the load began."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return Sample(
        seconds=seconds,
        resident_bytes=1024 * int(status["VmRSS"].split()[0]),
        threads=int(status["Threads"]),
        open_files=len(list(Path(f"/proc/{pid}/fd").iterdir())),
    )
