"""Checks of single values, with one wording for their errors. It knows no option and no file.

temperature must be 0 or more, got -1
precision must be one of int8, int4, got 'int2'; export again
"""

from __future__ import annotations

from collections.abc import Collection

from dovetail_ort_runtime.errors import DovetailError, InputError


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
