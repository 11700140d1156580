"""Manifests of version 1, turned into version 2: some keys are gone, and the others mean the same.

It knows no record: `manifest` reads those.
"""

from __future__ import annotations

import shlex
from typing import Any, Final

from dovetail_ort_runtime.errors import BundleError, BundleVersionError, one_line

# The key of each section that is gone in version 2.
_GONE: Final = {"target": "int8_format", "measurements": "int8_formats", "provenance": "calibration"}
# Values of `int8_format` that no graph has any more.
_ROW_FORMATS: Final = ("row", "row-unsigned")
# Keys of each section that only version 2 has.
_NEW: Final = {"target": ("format", "operators", "portable_graph", "rest_graph"), "drafter": ("format", "operators")}


def from_version_1(manifest: dict[str, Any]) -> dict[str, Any]:
    """The sections of a manifest of version 1, with the keys of version 2.

    Args:
        manifest: JSON object of a `manifest.json`, without its keys `format` and `version`.

    Raises:
        BundleError: it has a key that only version 2 has.
        BundleVersionError: its weights are INT8 by rows, which no graph has any more.
    """
    _check_keys(manifest)
    _check_int8_format(manifest)
    kept = dict(manifest)
    for section, key in _GONE.items():
        fields = _section(manifest, section)
        if fields is not None:
            kept[section] = {name: value for name, value in fields.items() if name != key}
    return kept


def _check_keys(manifest: dict[str, Any]) -> None:
    for section, keys in _NEW.items():
        for key in keys:
            if key in (_section(manifest, section) or {}):
                raise BundleError(f"manifest.{section} of version 1 must have no key {key!r}")


def _check_int8_format(manifest: dict[str, Any]) -> None:
    int8_format = (_section(manifest, "target") or {}).get("int8_format")
    if int8_format in _ROW_FORMATS:
        source = one_line((_section(manifest, "provenance") or {}).get("source", "SOURCE"))
        raise BundleVersionError(
            f"this bundle of version 1 has INT8 weights by rows, which are not read any more ({int8_format}); "
            f"make a new bundle with: dovetail-ort export {shlex.quote(source)} OUT"
        )


def _section(manifest: dict[str, Any], name: str) -> dict[str, Any] | None:
    """A section of the manifest, or None where it is missing or no object, which reading the records reports."""
    value = manifest.get(name)
    return value if isinstance(value, dict) else None
