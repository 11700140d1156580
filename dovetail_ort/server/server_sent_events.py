"""Events of a stream as they go over the wire."""

from __future__ import annotations

import json
from typing import Final

DONE: Final = b"data: [DONE]\n\n"


def event(value: object) -> bytes:
    """One event with a JSON value."""
    # Clients that split lines as Python does would break at U+2028 within a text; ASCII has no such character.
    return b"data: " + json.dumps(value).encode("ascii") + b"\n\n"
