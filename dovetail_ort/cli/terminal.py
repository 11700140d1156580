"""The terminal and the shell that commands run in, on every system. It knows no command."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import Final

END_OF_INPUT: Final = "Ctrl-Z and Enter" if sys.platform == "win32" else "Ctrl-D"
# Values of the Windows API: STD_OUTPUT_HANDLE and ENABLE_VIRTUAL_TERMINAL_PROCESSING.
_STANDARD_OUTPUT: Final = -11
_VIRTUAL_TERMINAL_PROCESSING: Final = 0x0004


def tell(message: str) -> None:
    """Print a message in one line on standard error."""
    print(" ".join(message.split()), file=sys.stderr)


def quoted(argument: object) -> str:
    """An argument as the system's shell reads it, for a command that is shown to be copied."""
    if sys.platform == "win32":
        return subprocess.list2cmdline([str(argument)])
    return shlex.quote(str(argument))


def shows_colours() -> bool:
    """Whether standard output is a terminal that reads escape sequences, and nobody has forbidden colours."""
    if "NO_COLOR" in os.environ or not sys.stdout.isatty():
        return False
    return _reads_escape_sequences()


def _reads_escape_sequences() -> bool:
    """Whether the terminal reads escape sequences; the Windows console does so only when it is asked to."""
    if sys.platform != "win32":
        return True
    import ctypes
    from ctypes import wintypes

    kernel = ctypes.windll.kernel32
    output = wintypes.HANDLE(kernel.GetStdHandle(_STANDARD_OUTPUT))
    mode = wintypes.DWORD()
    if not kernel.GetConsoleMode(output, ctypes.byref(mode)):
        return False
    return bool(kernel.SetConsoleMode(output, mode.value | _VIRTUAL_TERMINAL_PROCESSING))
