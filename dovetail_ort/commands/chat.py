"""`dovetail-ort chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Final

from dovetail_ort.cli.answer_printer import AnswerPrinter
from dovetail_ort.cli.arguments import add_generation_arguments, open_model, template_arguments
from dovetail_ort.cli.terminal import END_OF_INPUT, tell
from dovetail_ort_runtime.errors import ContextLengthError, DovetailError, InputError
from dovetail_ort_runtime.text.messages import Message
from dovetail_ort_runtime.text.user_text import standard_input

_HELP: Final = f"/reset forgets the conversation, /quit or {END_OF_INPUT} ends it, Ctrl-C interrupts an answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"in the conversation:\n  {_HELP}\n\nexample:\n  dovetail-ort chat smollm2 --temperature 0.7"
    add_generation_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    given = template_arguments(arguments)
    model, options = open_model(arguments)
    if not model.has_chat_template:
        raise InputError(f"{arguments.bundle} has no chat template, so it cannot chat; use dovetail-ort generate --raw")
    printer = AnswerPrinter(
        model, options, template_arguments=given, show_drafted=arguments.show_drafted, quiet=arguments.quiet
    )
    conversation = ChatSoFar(printer, system=arguments.system)
    standard_input()  # input() reads from it
    _enable_editing()
    if not arguments.quiet:
        _tell(f"{model.manifest.provenance.source}: {_HELP}")
    while True:
        line = _read_line()
        if line is None or line.strip() == "/quit":
            return 0
        _obey(line, conversation)


def _obey(line: str, conversation: ChatSoFar) -> None:
    """Carry out a command, or answer a message."""
    match line.strip():
        case "":
            return
        case "/reset":
            conversation.reset()
        case "/help":
            _tell(_HELP)
        case command if command.startswith("/") and command[1:].isalpha():
            _tell(f"a command must be /reset, /quit or /help, got {command}")
        case _:
            conversation.answer(line)


class ChatSoFar:
    """The messages so far; the model reads only those that it has not read before.

    Args:
        printer: gives and prints the answers.
        system: text of the system message, None without one.

    Attributes:
        messages: the conversation so far, each answer included.
    """

    def __init__(self, printer: AnswerPrinter, *, system: str | None) -> None:
        self._printer = printer
        self._system: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._system)

    def reset(self) -> None:
        """Forget all but the system message."""
        self.messages = list(self._system)

    def answer(self, text: str) -> None:
        """Answer a user's message. An answer that Ctrl-C cuts short stays; a message without an answer is dropped."""
        turn: list[Message] = [*self.messages, {"role": "user", "content": text}]
        try:
            self._printer.answer(turn)
        except KeyboardInterrupt:
            kept = "the answer so far stays in" if self._printer.text else "the message is dropped from"
            _tell(f"interrupted; {kept} the conversation")
        except ContextLengthError as error:
            _tell(f"{error}; or start again with /reset")
        except DovetailError as error:
            _tell(str(error))
        if self._printer.text:
            self.messages = [*turn, {"role": "assistant", "content": self._printer.text}]


def _enable_editing() -> None:
    # Where output is no terminal, readline would write its escape codes into it.
    if sys.stdin.isatty() and sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # input() then has history and editing


def _read_line() -> str | None:
    """The next line, or None at the end of the input; Ctrl-C empties the line."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        _end_prompt()
        return None
    except KeyboardInterrupt:
        _end_prompt()
        return ""
    except UnicodeDecodeError as error:
        raise InputError("standard input must be UTF-8 text, got other bytes") from error


def _end_prompt() -> None:
    if sys.stdin.isatty():
        print()


def _tell(message: str) -> None:
    tell(f"[{message}]")
