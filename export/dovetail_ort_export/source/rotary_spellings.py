"""The rotary settings as a `config.json` states them, in whichever spelling, as one mapping.

Two spellings are in use: `rope_theta` with `rope_scaling` (transformers 4, whose oldest releases say `type` for
`rope_type` and `su` for `longrope`), and `rope_parameters` (transformers 5), for all layers at once or by their type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail_ort_runtime.errors import SourceError


def rotary_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Both spellings as one mapping, `rope_theta` among its keys; what is null is left out.

    Raises:
        SourceError: two places say different things, or one is no object.
    """
    found: dict[str, Any] = {}
    newer, older = _of_all_layers(_mapping("rope_parameters", config)), _mapping("rope_scaling", config)
    for name, stated in (("rope_parameters", newer), ("rope_scaling", older), ("config.json", _beside(config))):
        for key, value in stated.items():
            if None not in (value, found.get(key, value)) and found.get(key, value) != value:
                raise SourceError(
                    f"{key} must be the same wherever config.json states it, got {found[key]!r} and, in {name}, "
                    f"{value!r}; keep the one that is meant"
                )
            if value is not None:
                found[key] = value
    return found


def _beside(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the older spelling keeps outside of `rope_scaling`."""
    return {"rope_theta": config.get("rope_theta")}


def _mapping(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SourceError(f"{name} must be an object, got {value!r:.60}; is config.json damaged?")
    return value


def _of_all_layers(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by the type of a layer must be equal: the families here have one table for all layers."""
    by_type = {name: value for name, value in parameters.items() if isinstance(value, Mapping)}
    if not by_type:
        return dict(parameters)
    first, *others = by_type.values()
    if len(by_type) < len(parameters) or any(other != first for other in others):
        raise SourceError(
            f"rope_parameters must be the same for all layers, got different ones for {', '.join(by_type)}; "
            "this family is not covered with them"
        )
    return dict(first)
