"""Calls that recurse as deep as their input is nested, on a stack that is deep enough."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

_STACK_BYTES: Final = 128 << 20  # address space; memory comes page by page as it is touched
_stack_size = threading.Lock()

Result = TypeVar("Result")


def on_deep_stack(call: Callable[[], Result]) -> Result:
    """What `call` returns or raises, called in a thread with 128 MiB of stack.

    Native code that overflows its stack ends the process, and no exception tells.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        with _stack_size:
            usual = threading.stack_size(_STACK_BYTES)
            try:
                future = executor.submit(call)
            finally:
                threading.stack_size(usual)
        return future.result()
