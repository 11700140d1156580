"""The command `dovetail-ort`: it runs a sub-command and turns errors into one line and a status. It knows no model.

Exit status:

    0    the command succeeded
    1    the command ran and found something bad: doctor a problem, bench a difference
    2    the command was not carried out in full: bad input, a damaged bundle, a missing package, a full disk
    130  the user pressed Ctrl-C
    141  the reader of the output went away
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final, NoReturn

import dovetail_ort
from dovetail_ort import commands
from dovetail_ort.cli.terminal import tell
from dovetail_ort_runtime.errors import DovetailError

PROGRAM: Final = "dovetail-ort"
REFUSED: Final = 2
INTERRUPTED: Final = 130
READER_GONE: Final = 141


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names the next action.

    Args:
        program: words that call the command.
        summary: what the command does, without a capital letter and a full stop.
    """

    def __init__(self, program: str, summary: str) -> None:
        super().__init__(
            prog=program,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print the error, and end with status 2."""
        tell(f"{self.prog}: {message}; see {self.prog} --help")
        sys.exit(REFUSED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of this process if None.

    Returns:
        The exit status.
    """
    _prepare_streams()
    try:
        status = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()  # a reader that went away shows here, not at the interpreter's end
    except SystemExit as end:  # argparse, after help, version or an error
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except OSError as error:
        if _reader_is_gone(error):
            _abandon_output()
            return READER_GONE
        return _fail(_describe(error), REFUSED)
    except MemoryError as error:
        return _fail(f"out of memory: {error}; take a smaller --max-context or a smaller model", REFUSED)
    except DovetailError as error:
        return _fail(str(error), REFUSED)
    return status


def _run(argv: list[str]) -> int:
    module: ModuleType = commands
    parser = OneLineParser(PROGRAM, "exact speculative decoding for ONNX Runtime")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {dovetail_ort.__version__}")
    while hasattr(module, "COMMANDS"):  # a group of commands, as the program itself is
        name = _choose(parser, module, argv[:1])
        argv = argv[1:]
        parser = OneLineParser(f"{parser.prog} {name}", module.COMMANDS[name])
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
    parser.usage = group.USAGE
    parser.epilog = group.EXAMPLES
    parser.add_argument("command", nargs="?", choices=group.COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    name: str | None = parser.parse_args(argv).command
    if name is None:
        parser.error("a command is missing")
    return name


def _show_warning(message: Warning | str, *_: object) -> None:
    tell(f"{PROGRAM}: warning: {message}")


def _prepare_streams() -> None:
    """Open standard streams that the caller closed, and print `?` for characters that the terminal does not have."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  # it is open as long as the process
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def _fail(message: str, status: int) -> int:
    tell(f"{PROGRAM}: {message}")
    return status


def _reader_is_gone(error: OSError) -> bool:
    """Whether nobody reads the output any more; Windows calls that an invalid argument, without a file name."""
    if isinstance(error, BrokenPipeError):
        return True
    return sys.platform == "win32" and error.errno == errno.EINVAL and error.filename is None


def _describe(error: OSError) -> str:
    if error.strerror is None:  # numpy, when a disk fills up
        return f"a file could not be read or written as a whole: {error}; is the disk full?"
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


def _abandon_output() -> None:
    """Send the rest of the output nowhere; otherwise the interpreter complains at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
