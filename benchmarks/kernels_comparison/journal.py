"""The steps that are finished, one JSON line each, so that a run that was stopped can continue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Journal:
    """The steps of one part.

    Args:
        path: file of the journal, made if it is not there.
        identity: JSON values that distinguish this measurement from others; the journal of another one is replaced.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        # A line without its end belongs to a step that was stopped.
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        if not lines or json.loads(lines[0]) != identity:
            lines = [json.dumps(identity)]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{lines[0]}\n", encoding="utf-8")
        self.steps: dict[str, Any] = dict(json.loads(line) for line in lines[1:])

    def add(self, name: str, measured: Any) -> None:
        """Keep what a step measured."""
        self.steps[name] = measured
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, measured]) + "\n")
