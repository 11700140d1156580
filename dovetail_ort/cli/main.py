"""The command `dovetail-ort`: a table of sub-commands, and what their errors become. It knows no model.

Exit status:

    0    success
    1    the command ran and its verdict is bad: doctor found a problem, bench a difference
    2    nothing was done, or not all of it: bad input, a damaged bundle, a missing package, a full disk
    130  Ctrl-C
    141  the reader of the output went away
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final, NoReturn

from dovetail_ort import commands
from dovetail_ort_runtime.errors import DovetailError

PROGRAM: Final = "dovetail-ort"
REFUSED: Final = 2
INTERRUPTED: Final = 130
READER_GONE: Final = 141


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and name the next action; a summary has no capital and full stop."""

    def __init__(self, program: str, summary: str) -> None:
        super().__init__(
            prog=program,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        _tell(f"{self.prog}: {message}; see {self.prog} --help")
        sys.exit(REFUSED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, by the arguments `argv` behind the program's name or those of this process; its exit status."""
    _prepare_streams()
    try:
        status = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()  # a reader that went away shows here, not at the interpreter's end
    except SystemExit as end:  # argparse, after help, version or an error
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _abandon_output()
        return READER_GONE
    except OSError as error:
        return _fail(_describe(error), REFUSED)
    except MemoryError as error:
        return _fail(f"out of memory: {error}; take a smaller --max-context or a smaller model", REFUSED)
    except DovetailError as error:
        return _fail(str(error), REFUSED)
    return status


def _run(argv: list[str]) -> int:
    module: ModuleType = commands
    parser = OneLineParser(PROGRAM, "exact speculative decoding for ONNX Runtime")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {importlib.metadata.version(PROGRAM)}")
    while hasattr(module, "COMMANDS"):  # a group of commands, as the program itself is
        name = _choose(parser, module, argv[:1])
        parser, argv = OneLineParser(f"{parser.prog} {name}", module.COMMANDS[name]), argv[1:]
        module = importlib.import_module(f"{module.__name__}.{name}")
    module.add_arguments(parser)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]  # its other parameters are not needed
        status: int = module.run(parser.parse_intermixed_args(argv))
    return status


def _choose(parser: OneLineParser, group: ModuleType, argv: list[str]) -> str:
    """The command of a group that `argv` names."""
    table = "\n".join(f"  {name:<10}{summary}" for name, summary in group.COMMANDS.items())
    parser.description = f"{parser.description}\n\ncommands:\n{table}"
    parser.usage, parser.epilog = group.USAGE, group.EXAMPLES
    parser.add_argument("command", nargs="?", choices=group.COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    name: str | None = parser.parse_args(argv).command
    if name is None:
        parser.error("a command must be given")
    return name


def _show_warning(message: Warning | str, *_: object) -> None:
    _tell(f"{PROGRAM}: warning: {message}")


def _prepare_streams() -> None:
    """Stand in for standard streams that the caller closed; show `?` where a terminal lacks a character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  # it is open as long as the process
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def _fail(message: str, status: int) -> int:
    _tell(f"{PROGRAM}: {message}")
    return status


def _describe(error: OSError) -> str:
    if error.strerror is None:  # numpy, when a disk fills up
        return f"a file must be read or written whole, got: {error}; is the disk full?"
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


def _tell(message: str) -> None:
    """Print a message in one line."""
    print(" ".join(message.split()), file=sys.stderr)


def _abandon_output() -> None:
    """Send what is still buffered nowhere, or the interpreter complains at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
