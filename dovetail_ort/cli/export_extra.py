"""What the commands share that need the packages of the extra [export]."""

from __future__ import annotations

import importlib
import os
import sys
import time
from types import ModuleType
from typing import Final

from dovetail_ort_runtime.errors import UnavailableError

# Their warnings are about interfaces that the user of a command does not see.
_QUIET_LIBRARIES: Final = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


class Progress:
    """Prints each step with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def __call__(self, step: str) -> None:
        """Print one step."""
        print(f"[{time.perf_counter() - self._started:5.1f} s] {step}", file=sys.stderr)


def import_from_export(what: str, module: str) -> ModuleType:
    """The module `module` of dovetail_ort_export; what torch and transformers tell developers is silenced.

    Raises:
        UnavailableError: a package of the extra is missing.
    """
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a log wants no progress bars
    if "torch" not in sys.modules:
        print("starting torch", file=sys.stderr)
    try:
        return importlib.import_module(f"dovetail_ort_export.{module}")
    except ImportError as error:
        raise UnavailableError(
            f"the {what} must have the packages of the extra [export], got: {error}; "
            "run: pip install 'dovetail-ort[export]'"
        ) from error
