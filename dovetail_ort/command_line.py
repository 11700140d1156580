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
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

from dovetail_ort_runtime.errors import DovetailError

PROGRAM: Final = "dovetail-ort"
REFUSED: Final = 2
INTERRUPTED: Final = 130
READER_GONE: Final = 141

# Each is a module of dovetail_ort.commands, imported when it is chosen: only those that export need torch.
COMMANDS: Final = {
    "export": "write a bundle from a Hugging Face model or a GGUF file",
    "train": "teach a drafter on text that the target writes itself",
    "attach": "put a trained drafter into a bundle",
    "tune": "time target and drafter, so that drafting pays here",
    "generate": "answer one prompt",
    "chat": "hold a conversation",
    "serve": "answer over HTTP, as OpenAI does",
    "bench": "measure plain against speculative decoding",
    "inspect": "show what is in a bundle",
    "graph": "see, change and measure what a graph is made of",
    "doctor": "check this machine and name the command that mends it",
}


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and name the next action; a summary has no capital and full stop."""

    def __init__(self, program: str, summary: str, **settings: Any) -> None:
        super().__init__(
            prog=program,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **settings,
        )

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(REFUSED, _one_line(f"{self.prog}: {message}; see {self.prog} --help"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of this process if None.

    Returns:
        The exit status, as in the module's docstring.
    """
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
    program, summary, command, rest = _choose(argv, PROGRAM, _program_parser(), COMMANDS, "dovetail_ort.commands")
    parser = OneLineParser(program, summary)
    command.add_arguments(parser)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]  # its other parameters are not needed
        status: int = command.run(parser.parse_intermixed_args(rest))
    return status


def _choose(
    argv: list[str], program: str, parser: OneLineParser, commands: Mapping[str, str], package: str
) -> tuple[str, str, ModuleType, list[str]]:
    """The command that `argv` begins with: how it was called, its summary, its module, and the arguments behind it.

    A module with a table `COMMANDS` of its own is a group, whose commands are chosen likewise.
    """
    _add_table(parser, commands)
    name = parser.parse_args(argv[:1]).command
    if name is None:
        parser.error("a command must be given")
    program, module = f"{program} {name}", importlib.import_module(f"{package}.{name}")
    if not hasattr(module, "COMMANDS"):
        return program, commands[name], module, argv[1:]
    group = OneLineParser(program, commands[name], usage=f"{program} [-h] COMMAND ...", epilog=module.EXAMPLES)
    return _choose(argv[1:], program, group, module.COMMANDS, module.__name__)


def _add_table(parser: OneLineParser, commands: Mapping[str, str]) -> None:
    table = "\n".join(f"  {name:<10}{summary}" for name, summary in commands.items())
    parser.description = f"{parser.description}\n\ncommands:\n{table}"
    parser.add_argument("command", nargs="?", choices=commands, metavar="COMMAND", help=argparse.SUPPRESS)


def _show_warning(message: Warning | str, *_: object) -> None:
    print(_one_line(f"{PROGRAM}: warning: {message}"), end="", file=sys.stderr)


def _program_parser() -> OneLineParser:
    parser = OneLineParser(
        PROGRAM,
        "exact speculative decoding for ONNX Runtime",
        usage=f"{PROGRAM} [-h] [--version] COMMAND ...",
        epilog=f"example:\n  {PROGRAM} export HuggingFaceTB/SmolLM2-135M-Instruct smollm2\n"
        f'  {PROGRAM} generate smollm2 "Why is the sky blue?"\n\n{PROGRAM} COMMAND --help has more.',
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {importlib.metadata.version(PROGRAM)}")
    return parser


def _prepare_streams() -> None:
    """Stand in for standard streams that the caller closed; show `?` where a terminal lacks a character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  # it is open as long as the process
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def _fail(message: str, status: int) -> int:
    print(_one_line(f"{PROGRAM}: {message}"), end="", file=sys.stderr)
    return status


def _describe(error: OSError) -> str:
    if error.strerror is None:  # numpy, when a disk fills up
        return f"a file must be read or written whole, got: {error}; is the disk full?"
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


def _one_line(message: str) -> str:
    return " ".join(message.split()) + "\n"


def _abandon_output() -> None:
    """Send what is still buffered nowhere, or the interpreter complains at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
