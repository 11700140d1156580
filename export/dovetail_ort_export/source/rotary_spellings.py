"""The rotary settings of a `config.json` as one mapping, whichever spelling it uses.

Two spellings are in use: `rope_theta` with `rope_scaling` (transformers 4, whose oldest releases say `type` for
`rope_type` and `su` for `longrope`), and `rope_parameters` (transformers 5), for all layers at once or by their type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail_ort_runtime.errors import SourceError


def rotary_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Both spellings as one mapping, with `rope_theta` among its keys; keys that are null are left out.

    Args:
        config: content of `config.json`.

    Raises:
        SourceError: two places contradict each other, or one is not an object.
    """
    places = {
        "rope_parameters": _of_all_layers(_mapping("rope_parameters", config)),
        "rope_scaling": _mapping("rope_scaling", config),
        "config.json": {"rope_theta": config.get("rope_theta")},  # the older spelling keeps it outside
    }
    found: dict[str, Any] = {}
    for place, stated in places.items():
        for key, value in stated.items():
            if value is None:
                continue
            if key in found and found[key] != value:
                raise SourceError(
                    f"{key} must be the same wherever config.json states it, got {found[key]!r} and, in {place}, "
                    f"{value!r}; keep the one that is meant"
                )
            found[key] = value
    return found


def _mapping(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SourceError(f"{name} must be an object, got {value!r:.60}; is config.json damaged?")
    return value


def _of_all_layers(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that all layers share.

    Where the file states them by the type of a layer, they must be equal: the families here have one table for all.
    """
    by_type = {name: value for name, value in parameters.items() if isinstance(value, Mapping)}
    if not by_type:
        return dict(parameters)
    first = next(iter(by_type.values()))
    if len(by_type) < len(parameters) or any(stated != first for stated in by_type.values()):
        raise SourceError(
            f"rope_parameters must be the same for all layers, got different ones for {', '.join(by_type)}; "
            "this family is not covered with them"
        )
    return dict(first)
