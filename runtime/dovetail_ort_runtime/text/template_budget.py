"""Time, work and output that one rendering of a chat template may take. It knows no template."""

from __future__ import annotations

import time
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

# An honest template takes milliseconds, and makes a few times as much text as it is given.
SECONDS: Final = 5.0
WORK: Final = 16 << 20
WORK_PER_CHARACTER: Final = 256
# What an element of a list takes beside its own characters: eight bytes, and time to look at it.
WORK_PER_ELEMENT: Final = 8
OUTPUT: Final = 1 << 20
OUTPUT_PER_CHARACTER: Final = 8


class TemplateLimitError(Exception):
    """A template wants more than its budget; the message ends the sentence "the chat template must"."""


class TemplateBudget:
    """Time, work and output of one rendering.

    A step costs one unit of work, one more for each character that it makes, and `WORK_PER_ELEMENT` more for each
    element. So the limit of work is a limit of memory too.

    Args:
        conversation: everything that the template is given; a longer conversation may take more.

    Attributes:
        max_characters: largest number of characters of the rendered text.
    """

    def __init__(self, conversation: object) -> None:
        characters = weight(conversation)
        self.max_characters = OUTPUT + OUTPUT_PER_CHARACTER * characters
        self._work = WORK + WORK_PER_CHARACTER * characters
        self._work_left = self._work
        self._end = time.monotonic() + SECONDS

    def charge(self, work: int = 1) -> None:
        """Take units of work.

        Raises:
            TemplateLimitError: the budget is spent, or the time is over.
        """
        self._work_left -= work
        if self._work_left < 0:
            raise TemplateLimitError(f"take {self._work} units of work at most, got more")
        if time.monotonic() > self._end:
            raise TemplateLimitError(f"render within {SECONDS:g} seconds, took longer")

    def charge_for(self, value: Any) -> None:
        """Take one unit of work and the weight of a value; errors as in `charge`."""
        self.charge(1 + weight(value, self._work_left))


_current: ContextVar[TemplateBudget] = ContextVar("template_budget")


def current_budget() -> TemplateBudget:
    """Budget of the template that is being rendered in this context."""
    return _current.get()


@contextmanager
def spending(budget: TemplateBudget) -> Iterator[None]:
    """Let templates that are rendered within the block pay from this budget."""
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)


def weight(value: Any, enough: int | None = None) -> int:
    """Units of work for a value and everything in it. What it holds twice counts twice.

    Args:
        value: any value; one that is no text, number or container weighs one element.
        enough: total at which counting stops: nested lists that hold the same list twice double at each level.
    """
    total = 0
    pending = [value]
    while pending and (enough is None or total <= enough):
        item = pending.pop()
        total += WORK_PER_ELEMENT
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, int):
            total += item.bit_length() >> 3
        elif isinstance(item, Mapping):
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)):
            pending += item
    return total
