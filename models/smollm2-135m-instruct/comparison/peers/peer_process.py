"""A peer program as the comparison sees it: a process that answers when asked and must be idle otherwise."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from peers.peer_program import PeerAnswer, PeerOptions
from peers.peer_setups import PeerSetup

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class PeerProcess:
    """A started peer that has loaded its model.

    Attributes:
        modes: in which it answers; one is `plain`.
        versions: of its packages.
    """

    def __init__(self, setup: PeerSetup, options: PeerOptions) -> None:
        given = json.dumps(asdict(options) | {"model": str(options.model)})
        command = [setup.interpreter, setup.program, given, *setup.arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        hello = self._read()
        self.modes: list[str] = hello["modes"]
        self.versions: dict[str, str] = hello["versions"]

    def answer(self, mode: str, prompt: Sequence[int]) -> PeerAnswer:
        """Answer token ids in one of the modes."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"mode": mode, "prompt": prompt}) + "\n")
        self._process.stdin.flush()
        found = self._read()
        return PeerAnswer(**found | {"token_ids": tuple(found["token_ids"])})

    def cpu_seconds(self) -> float:
        """What all threads of the process have used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"a peer must answer, got its end with status {self._process.wait()}; see its last words"
            )
        reply: dict[str, Any] = json.loads(line)
        return reply
