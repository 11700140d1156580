"""A peer program as the comparison sees it: a process that answers requests and is idle between them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.program import PeerAnswer, PeerOptions
from benchmarks.peers.setups import PeerSetup
from benchmarks.result_files import REPOSITORY

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class PeerProcess:
    """A started peer that has loaded its model.

    Attributes:
        modes: names of the ways in which it answers; one is `baseline`.
        versions: versions of its packages, by name.
    """

    def __init__(self, setup: PeerSetup, options: PeerOptions) -> None:
        given = json.dumps(asdict(options) | {"model": str(options.model)})
        self._process = subprocess.Popen(
            [*setup.command, given, *setup.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        hello = self._read()
        self.modes: list[str] = hello["modes"]
        self.versions: dict[str, str] = hello["versions"]

    def answer(self, mode: str, prompt: Sequence[int]) -> PeerAnswer:
        """The answer to the token ids of a prompt, in one of the modes."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"mode": mode, "prompt": prompt}) + "\n")
        self._process.stdin.flush()
        found = self._read()
        return PeerAnswer(**found | {"token_ids": tuple(found["token_ids"])})

    def cpu_seconds(self) -> float:
        """Seconds that all threads of the process have computed so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"A peer ended with status {self._process.wait()}; its standard error says why.")
        reply: dict[str, Any] = json.loads(line)
        return reply
