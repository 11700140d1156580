"""The packages of the extra [export], which only some commands need: importing them, and showing what they do."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dovetail_ort_runtime.errors import UnavailableError

# Their warnings are about interfaces that the user of a command does not see.
_QUIET_LIBRARIES: Final = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
_OUR_PACKAGES: Final = ("dovetail_ort", "dovetail_ort_export", "dovetail_ort_runtime")


class Progress:
    """Prints each step with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def __call__(self, step: str) -> None:
        """Print one step."""
        print(f"[{time.perf_counter() - self._started:5.1f} s] {step}", file=sys.stderr)


@contextmanager
def export_packages(what: str, *, with_torch: bool = True) -> Iterator[None]:
    """Import names of dovetail_ort_export within this context.

    Messages that torch and transformers print for developers are silenced. An ImportError that is not about a package
    of the extra is a fault of this program, and passes through.

    Args:
        what: the part of the program that needs the packages, as the error message names it.
        with_torch: whether torch is among them. It takes seconds to start, so a line says so.

    Raises:
        UnavailableError: a package of the extra is missing, or cannot be loaded.
    """
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a log wants no progress bars
    if with_torch and "torch" not in sys.modules:
        print("starting torch", file=sys.stderr)
    try:
        yield
    except ImportError as error:
        if _is_our_fault(error):
            raise
        raise UnavailableError(
            f"the {what} needs the packages of the extra [export], and one of them does not load: {error}; "
            'run: pip install "dovetail-ort[export]"'
        ) from error


def _is_our_fault(error: ImportError) -> bool:
    """Whether what is missing is a module of this program, or one of Python's own that this system does not have."""
    package = (error.name or "").partition(".")[0]
    return package in _OUR_PACKAGES or package in sys.stdlib_module_names
