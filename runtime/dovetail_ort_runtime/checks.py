"""Checks of single values, with one wording for their errors, and sizes as people write them.

It knows no option and no file.

temperature must be 0 or more, got -1
precision must be one of int8, int4, got 'int2'; export again
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from typing import Final

from dovetail_ort_runtime.errors import DovetailError, InputError

_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def must_be(
    what: str, rule: str, value: object, *, holds: bool, advice: str = "", error: type[DovetailError] = InputError
) -> None:
    """Refuse a value for which a rule does not hold.

    Args:
        what: name of the value.
        rule: words that follow "must be".
        value: value that was given.
        holds: whether the value keeps the rule.
        advice: what to do next; may be empty.
        error: class of the error.

    Raises:
        InputError: the rule does not hold; or `error`, if that is another class.
    """
    if not holds:
        reason = f"{what} must be {rule}, got {value!r}"
        raise error(f"{reason}; {advice}" if advice else reason)


def must_be_one_of(
    what: str,
    value: object,
    choices: Collection[object],
    *,
    advice: str = "",
    error: type[DovetailError] = InputError,
) -> None:
    """Refuse a value that is not among the choices; arguments and errors are those of `must_be`."""
    listed = ", ".join(map(str, choices))
    must_be(what, f"one of {listed}", value, holds=value in choices, advice=advice, error=error)


def must_be_at_least(
    what: str, value: float | None, least: float, *, advice: str = "", error: type[DovetailError] = InputError
) -> None:
    """Refuse a number below `least`, and NaN. None passes: it stands for a number that was not given."""
    holds = value is None or value >= least
    must_be(what, f"{least} or more", value, holds=holds, advice=advice, error=error)


def must_be_between(
    what: str,
    value: float | None,
    least: float,
    most: float,
    *,
    advice: str = "",
    error: type[DovetailError] = InputError,
) -> None:
    """Refuse a number below `least` or above `most`, and NaN. None passes, as in `must_be_at_least`."""
    holds = value is None or least <= value <= most
    must_be(what, f"between {least} and {most}", value, holds=holds, advice=advice, error=error)


def parse_bytes(text: str) -> int:
    """A number of bytes from a text such as `3GB`, `512MiB` or `2e9`.

    Raises:
        InputError: the text is no number of bytes above 0.
    """
    found = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([KMG]I?)?B?\s*", text, re.IGNORECASE)
    number = 0
    if found is not None:
        unit = (found[2] or "").upper()
        with contextlib.suppress(ValueError, OverflowError):
            number = int(float(found[1]) * _UNITS[unit])
    if number < 1:
        raise InputError(f"a size must be a number of bytes above 0 such as 3GB, got {text!r}")
    return number
