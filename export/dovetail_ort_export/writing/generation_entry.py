"""The model's own generation settings, as the manifest states them: greedy unless they ask for sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dovetail_ort_export.source import Source
from dovetail_ort_runtime.bundle.manifest import GenerationEntry
from dovetail_ort_runtime.errors import InputError, SourceError


def generation_entry(source: Source) -> GenerationEntry:
    """What a manifest says of the settings with which a model's publisher generates.

    Raises:
        SourceError: a setting is no number, or out of bounds.
    """
    given = source.checkpoint.generation
    sampling = _sampling(given) if given.get("do_sample") else {}
    try:
        return GenerationEntry(
            eos_token_ids=source.text.eos_token_ids,
            repetition_penalty=_number(given, "repetition_penalty", default=1.0, off=1.0),
            **sampling,
        )
    except InputError as error:
        raise SourceError(f"generation_config.json must hold settings within bounds: {error}; correct it") from None


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model that samples, with the defaults of transformers for those that are not given."""
    top_k = int(_number(given, "top_k", default=50, off=0))
    return {
        "temperature": _number(given, "temperature", default=1.0, off=1.0),
        "top_k": max(top_k, 0),  # -1 stands for "off", too
        "top_p": _number(given, "top_p", default=1.0, off=1.0),
        "min_p": _number(given, "min_p", default=0.0, off=0.0),
    }


def _number(settings: Mapping[str, Any], name: str, *, default: float, off: float) -> float:
    """A generation setting: `default` where it is not named, `off` where it is null."""
    value = settings.get(name, default)
    if value is None:
        return off
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SourceError(f"{name} of generation_config.json must be a number, got {value!r:.60}; correct it")
    return float(value)
