"""Give memory that was freed back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def return_freed_memory() -> None:
    """Let the C library return what it keeps for later; glibc keeps hundreds of megabytes of an unloaded model."""
    with suppress(AttributeError, OSError, TypeError):  # another library, which has no such call or needs none
        ctypes.CDLL(None).malloc_trim(0)
