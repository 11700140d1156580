"""Template arguments: values for a chat template beside the messages, such as `enable_thinking`.

It knows no template.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.text.template_budget import weight

MOST_ARGUMENTS: Final = 32
LONGEST_NAME: Final = 64
# Characters of all arguments, and eight more for each element. Schemas of many tools have some 100,000.
LARGEST_ARGUMENTS: Final = 1 << 20
DEEPEST_VALUE: Final = 32
_RENDERING: Final = ("messages", "add_generation_prompt")
_LISTS: Final = ("tools", "documents")


def checked_template_arguments(arguments: object, taken: Iterable[str] = ()) -> dict[str, Any]:
    """A copy of template arguments that a template may be given.

    Args:
        arguments: JSON values by name: None, booleans, numbers, strings, lists and dictionaries.
        taken: names that have a meaning in the template already.

    Raises:
        InputError: a name is no identifier or is taken, a value is no JSON value, `tools` or `documents` is no list, or
            the arguments are too many, too large or too deep.
    """
    if not isinstance(arguments, Mapping):
        raise InputError(f"template arguments must be a mapping of names and values, got {type(arguments).__name__}")
    if len(arguments) > MOST_ARGUMENTS:
        raise InputError(f"there must be {MOST_ARGUMENTS} template arguments at most, got {len(arguments)}")
    if weight(arguments, LARGEST_ARGUMENTS) > LARGEST_ARGUMENTS:
        raise InputError(f"template arguments must have {LARGEST_ARGUMENTS} characters at most, got more; shorten them")
    unavailable = {*_RENDERING, *taken}
    for name, value in arguments.items():
        _check_name(name, unavailable)
        _check_value(name, value)
    return dict(arguments)


def is_json(value: object, levels: int = DEEPEST_VALUE) -> bool:
    """Whether JSON can express a value whose containers are nested at most `levels` deep."""
    if isinstance(value, dict):
        has_text_keys = all(isinstance(key, str) for key in value)
        return levels > 0 and has_text_keys and all(is_json(item, levels - 1) for item in value.values())
    if isinstance(value, (list, tuple)):
        return levels > 0 and all(is_json(item, levels - 1) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, int))


def _check_name(name: object, unavailable: Iterable[str]) -> None:
    if not isinstance(name, str) or not name.isidentifier() or len(name) > LONGEST_NAME:
        raise InputError(
            f"the name of a template argument must be an identifier of {LONGEST_NAME} characters at most, "
            f"got {name!a:.80}"
        )
    if name in unavailable:
        raise InputError(
            f"a template argument must not be called {name}, which has a meaning in the template already; leave it out"
        )


def _check_value(name: str, value: object) -> None:
    if name in _LISTS and value is not None and not isinstance(value, (list, tuple)):
        raise InputError(f"the template argument {name} must be a list or None, got {type(value).__name__}")
    if not is_json(value):
        raise InputError(
            f"the template argument {name} must be a JSON value of {DEEPEST_VALUE} levels at most, got {value!a:.60}"
        )
