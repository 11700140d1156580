"""Single steps of a template that could take for ever, or all memory. It knows no template and no sandbox.

A step that multiplies its operands (`'a' * 10**9`, `replace`, `join`, formats, integers) pays for its result first. A
step that searches slowly, or computes a power, takes small operands only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, Final

from jinja2 import Environment
from jinja2.filters import do_format, do_indent, do_round, do_trim, make_attrgetter
from jinja2.utils import pass_environment

from dovetail_ort_runtime.text.template_budget import TemplateLimitError, current_budget, weight

_LARGEST_INTEGER_BITS: Final = 4096
_LETTER: Final = re.compile(r"[a-zA-Z]")
# A width or precision of four digits or more, or one that an argument gives.
_WIDE: Final = re.compile(r"\d{4}|\*")
# The time of these grows with the product of both lengths.
_SLOW_METHODS: Final = {"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"}
_LONGEST_OPERAND: Final = 100
_LARGEST_PRECISION: Final = 100
NUMBER_TESTS: Final = ("divisibleby", "even", "odd")


def paying(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same filter or test, paying for itself and its result.

    It keeps the attributes in which jinja2 notes what the first argument is.
    """

    @wraps(function)
    def paying(*args: Any, **kwargs: Any) -> Any:
        current_budget().charge()
        result = function(*args, **kwargs)
        current_budget().charge_for(result)
        return result

    return paying


def of_numbers(test: Callable[..., bool]) -> Callable[..., bool]:
    """A test that is False for all but numbers: it computes a remainder, and `%` would format a text."""

    @wraps(test)
    def checked(value: Any, *args: Any) -> bool:
        return isinstance(value, (int, float)) and test(value, *args)

    return checked


def checked_arguments(text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Arguments of a method of `text`, paid for.

    Raises:
        TemplateLimitError: the method would take too long, or make too much.
    """
    if name in ("format", "format_map"):
        _check_format(text, _brace_widths(text), text.count("{"), (args, kwargs))
    if name in _SLOW_METHODS:
        for argument in (*args, *kwargs.values()):
            _check_operand(argument)
    if name == "replace" and len(args) > 1:
        _charge_replacement(text, *args[:2])
    if name == "join" and args:
        items = list(args[0])
        current_budget().charge(len(items) * (1 + len(text)) + weight(items))
        return (items,)
    return args


def _check_operand(value: Any) -> None:
    if isinstance(value, str) and len(value) > _LONGEST_OPERAND:
        raise TemplateLimitError(
            f"strip and search from the end for {_LONGEST_OPERAND} characters at most, got {len(value)}"
        )


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Charge for the result of an operator on two values.

    Raises:
        TemplateLimitError: the result would be too large.
    """
    if operator == "%" and isinstance(left, str):
        _check_format(left, _percent_widths(left), left.count("%"), right)
    elif isinstance(left, int) and isinstance(right, int):
        if _result_bits(operator, left, right) > _LARGEST_INTEGER_BITS:
            raise TemplateLimitError(f"compute with integers of {_LARGEST_INTEGER_BITS} bits at most, got larger ones")
    elif operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(times, int):
                size = len(sequence) if isinstance(sequence, str) else weight(sequence)
                current_budget().charge(size * max(times, 0))
    elif operator == "+":
        current_budget().charge(weight(left) + weight(right))


def _result_bits(operator: str, left: int, right: int) -> int:
    """Bits of an operator's result at most."""
    match operator:
        case "*":
            return left.bit_length() + right.bit_length()
        case "**":
            return left.bit_length() * abs(right)
        case _:
            return max(left.bit_length(), right.bit_length())


def _check_format(text: str, widths: Iterable[str | None], num_fields: int, values: Any) -> None:
    """Charge for a formatted text; each of its fields may show all of the values."""
    for width in widths:
        if width is None or _WIDE.search(width):
            raise TemplateLimitError(f"format with widths below 1000, got {text!a:.60}")
    current_budget().charge(len(text) + num_fields * weight(values))


def _percent_widths(text: str) -> Iterator[str | None]:
    """Width and precision of each field of a `%` format; None where they are hard to find."""
    for field in text.replace("%%", "").split("%")[1:]:
        name = ""
        closed = ")"
        rest = field
        if field.startswith("("):
            name, closed, rest = field[1:].partition(")")
        if closed and "(" not in name:
            letter = _LETTER.search(rest)
            yield rest if letter is None else rest[: letter.start()]
        else:
            yield None


def _brace_widths(text: str) -> Iterator[str | None]:
    """Text after the colon of each field of a `str.format`; None where another field is inside."""
    for field in text.replace("{{", "").replace("}}", "").split("{")[1:]:
        inside, closed, _ = field.partition("}")
        yield inside.partition(":")[2].replace("*", "") if closed else None  # a star fills, and gives no width


def _charge_replacement(text: str, old: str, new: str) -> None:
    current_budget().charge(len(text) + text.count(old) * len(new))


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text = str(value)
    before = str(old)
    after = str(new)
    _charge_replacement(text, before, after)
    return text.replace(before, after, -1 if count is None else count)


@pass_environment
def _join(environment: Environment, value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    separator = str(d)
    texts = []
    for item in items:
        texts.append(str(item))
        current_budget().charge(1 + len(separator) + len(texts[-1]))
    return separator.join(texts)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    text = str(value)
    _check_format(text, _percent_widths(text), text.count("%"), (args, kwargs))
    return do_format(value, *args, **kwargs)


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    margin = len(width) if isinstance(width, str) else max(width, 0)
    current_budget().charge(len(value) + (1 + len(value.splitlines())) * margin)
    return do_indent(value, width, first, blank)


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > _LARGEST_PRECISION:
        raise TemplateLimitError(f"round to {_LARGEST_PRECISION} digits at most, got {precision!a:.20}")
    return do_round(value, precision, method)


def _trim(value: Any, chars: str | None = None) -> str:
    _check_operand(chars)
    return do_trim(value, chars)


CHECKED_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "format": _format,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "trim": _trim,
}
