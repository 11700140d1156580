"""What one rendering of a chat template may take. It knows no template."""

from __future__ import annotations

import time
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

# An honest template takes milliseconds, and makes a few times the text that it is given.
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

    A step costs one unit of work, one more for each character and `WORK_PER_ELEMENT` for each element that it makes, so
    that work bounds memory as well.

    Args:
        conversation: what is rendered; a longer one may take more.

    Attributes:
        max_characters: of the rendered text.
    """

    def __init__(self, conversation: object) -> None:
        characters = weight(conversation)
        self.max_characters = OUTPUT + OUTPUT_PER_CHARACTER * characters
        self._work = self._work_left = WORK + WORK_PER_CHARACTER * characters
        self._end = time.monotonic() + SECONDS

    def charge(self, work: int = 1) -> None:
        """Take units of work.

        Raises:
            TemplateLimitError: the budget is spent, or the time is over.
        """
        self._work_left -= work
        if self._work_left < 0:
            raise TemplateLimitError(f"get by with {self._work} characters on its way, got more")
        if time.monotonic() > self._end:
            raise TemplateLimitError(f"render within {SECONDS:g} seconds, got no end")

    def charge_for(self, value: Any) -> None:
        """Take one unit and what a value weighs; errors as in `charge`."""
        self.charge(1 + weight(value, self._work_left))


_current: ContextVar[TemplateBudget] = ContextVar("template_budget")


def current_budget() -> TemplateBudget:
    """That of the template which is being rendered here."""
    return _current.get()


@contextmanager
def spending(budget: TemplateBudget) -> Iterator[None]:
    """Templates that are rendered within the block pay from this budget."""
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)


def weight(value: Any, enough: int | None = None) -> int:
    """Work for a value with all that it holds, as often as it holds it.

    Args:
        value: anything; what is no text, number or container weighs one element.
        enough: where counting stops; a list that holds one list twice, and so on, doubles at each level.
    """
    total, pending = 0, [value]
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
