"""How much memory this process has held at most."""

from __future__ import annotations

import resource
import sys


def peak_memory_bytes() -> int:
    """Largest resident set of this process since it started, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
