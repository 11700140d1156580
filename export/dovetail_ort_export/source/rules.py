"""What the value of a setting may be. A rule checks a value, and says in words what it allows. It knows no family."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Rule(Protocol):
    """What a setting's value may be."""

    @property
    def words(self) -> str:
        """What is allowed, in words that follow "must be"."""

    def allows(self, value: Any) -> bool:
        """Whether a value, as JSON gives it, is allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A rule that allows finite numbers within bounds.

    Attributes:
        whole: whether it must be an integer.
        least: smallest value that is allowed, or None for no such bound.
        most: largest value that is allowed, or None for no such bound.
        above: value that it must exceed, or None for no such bound.
        or_none: whether null is allowed, which means "without".
    """

    whole: bool = False
    least: float | None = None
    most: float | None = None
    above: float | None = None
    or_none: bool = False

    @property
    def words(self) -> str:
        """What is allowed."""
        kind = "a whole number" if self.whole else "a number"
        if self.least is not None:
            kind += f" of {self.least} or more"
        if self.most is not None:
            kind += f" and at most {self.most}" if self.least is not None else f" of at most {self.most}"
        if self.above is not None:
            kind += f" above {self.above}"
        return f"{kind}, or null" if self.or_none else kind

    def allows(self, value: Any) -> bool:
        """Whether a value is such a number. A float is never whole, even without a fraction."""
        if value is None:
            return self.or_none
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        if not -sys.float_info.max <= value <= sys.float_info.max:
            return False
        if self.most is not None and value > self.most:
            return False
        return (self.least is None or value >= self.least) and (self.above is None or value > self.above)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A rule that allows a few values.

    Attributes:
        values: all that are allowed.
    """

    values: tuple[Any, ...]

    @property
    def words(self) -> str:
        """What is allowed."""
        shown = ", ".join(map(str, self.values))
        return shown if len(self.values) == 1 else f"one of {shown}"

    def allows(self, value: Any) -> bool:
        """Whether a value is one of them, and of the same type: 1 is not True."""
        return any(value == allowed and isinstance(value, type(allowed)) for allowed in self.values)


@dataclass(frozen=True, slots=True)
class Truth:
    """A rule that allows true and false."""

    @property
    def words(self) -> str:
        """What is allowed."""
        return "true or false"

    def allows(self, value: Any) -> bool:
        """Whether a value is true or false."""
        return isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Listed:
    """A rule that allows lists of a few values, each of which may occur any number of times.

    Attributes:
        values: all that are allowed in the list.
    """

    values: tuple[str, ...]

    @property
    def words(self) -> str:
        """What is allowed."""
        return f"a list of {' and '.join(self.values)}"

    def allows(self, value: Any) -> bool:
        """Whether a value is such a list."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        return all(item in self.values for item in value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """A rule that allows lists of one or more positive numbers."""

    @property
    def words(self) -> str:
        """What is allowed."""
        return "a list of numbers above 0"

    def allows(self, value: Any) -> bool:
        """Whether a value is such a list."""
        positive = Number(above=0)
        return isinstance(value, list) and len(value) > 0 and all(map(positive.allows, value))
