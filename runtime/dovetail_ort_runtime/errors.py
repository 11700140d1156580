"""Everything that can go wrong, as a tree with one root.

    DovetailError
    ├── InputError (ValueError)
    │   └── ContextLengthError
    ├── BundleError (ValueError)
    │   ├── BundleVersionError
    │   └── ChatTemplateError
    ├── SourceError (ValueError)
    ├── ModelUseError (RuntimeError)
    └── UnavailableError (RuntimeError)

Every message is one line. For a value it is "<what> must be <rule>, got <value>; <what to do next>". Otherwise it says
what is wrong as a person would say it, and what to do next. What to do next follows the last "; " and has none itself.
"""

from __future__ import annotations

from typing import Final

_LONGEST_REASON: Final = 300


class DovetailError(Exception):
    """Root of all errors that this project raises on purpose."""


class InputError(DovetailError, ValueError):
    """An option, a prompt or a file of prompts is outside its bounds."""


class ContextLengthError(InputError):
    """Prompt and answer need more positions than the context holds."""


class BundleError(DovetailError, ValueError):
    """A bundle is missing, incomplete or altered, or a directory is no bundle."""


class BundleVersionError(BundleError):
    """This release does not read the version of a manifest."""


class ChatTemplateError(BundleError):
    """A bundle's chat template fails for these messages and arguments; for others it may work."""


class SourceError(DovetailError, ValueError):
    """A model cannot be exported."""


class ModelUseError(DovetailError, RuntimeError):
    """A loaded model cannot be used: it is closed, belongs to another process, or would wait for itself."""


class UnavailableError(DovetailError, RuntimeError):
    """This environment or machine lacks a package or provider."""


def split_advice(reason: object) -> tuple[str, str | None]:
    """The message of an error of this project in two: what is wrong, and what to do next.

    Args:
        reason: error, or its message.

    Returns:
        What is wrong, and what to do next; None if the message does not say it.
    """
    message = str(reason)
    fault, separator, advice = message.rpartition("; ")
    return (fault, advice) if separator else (message, None)


def one_line(reason: object) -> str:
    """The message of another library on one line; of a long one both ends, because either may say what is wrong."""
    words = " ".join(str(reason).split())
    if len(words) <= _LONGEST_REASON:
        return words
    tail = _LONGEST_REASON // 2
    return f"{words[: _LONGEST_REASON - tail - 3]} … {words[-tail:]}"
