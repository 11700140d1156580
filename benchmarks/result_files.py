"""Where committed results lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).parents[1]
SMOLLM2: Final = REPOSITORY / "models" / "smollm2-135m-instruct"
LLAMA2_SHAPE: Final = REPOSITORY / "models" / "llama-2-7b-shape"
# What belongs to the model and to no machine: heads that were trained, and what they accept.
HEADS: Final = SMOLLM2 / "results"
# The machine that the pages show.
XEON_AMX: Final = REPOSITORY / "benchmarks" / "results" / "intel-xeon-2-cores-amx-int8"


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
