"""Numbers from a configuration or from metadata, checked before anything is computed with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dovetail_ort_runtime.errors import SourceError

# Keys whose null does not mean the default, but "as many as query heads" and "no window".
_NULL_HAS_A_MEANING: Final = ("num_key_value_heads", "sliding_window")


def over_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration over its family's defaults; a key that is null counts as absent, with few exceptions."""
    stated = {key: value for key, value in config.items() if value is not None or key in _NULL_HAS_A_MEANING}
    return {**defaults, **stated}


def count(values: Mapping[str, Any], key: str) -> int:
    """The whole number over zero under a key."""
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SourceError(f"{key} must be a whole number over zero, got {value!r:.80}")
    return value


def number(values: Mapping[str, Any], key: str) -> float:
    """The number over zero under a key."""
    value = values.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise SourceError(f"{key} must be a number over zero, got {value!r:.80}")
    return float(value)


def number_or(values: Mapping[str, Any], key: str, default: float) -> float:
    """The number over zero under a key; `default` if it is absent, null or zero, as in publishers' code."""
    return number(values, key) if values.get(key) else default
