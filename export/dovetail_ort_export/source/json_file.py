"""Settings in a JSON file of a model directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dovetail_ort_runtime.errors import SourceError


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; it is empty if there is no such file.

    Raises:
        SourceError: the file is there, and holds no JSON object in UTF-8.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))  # Windows editors write a byte order mark
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON: {error}; download it again") from None
    if not isinstance(found, dict):
        raise SourceError(f"{path} must be a JSON object, got {type(found).__name__}; download it again")
    return found
