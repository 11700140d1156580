"""Which graphs an export writes: one recipe for each format that it is asked for. It makes no graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dovetail_ort_export.options import AUTO_FORMAT, BOTH_FORMATS, ExportOptions, Report
from dovetail_ort_export.recipe import LOWER_NATIVE, Recipe, built_in_recipe, read_recipe
from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.formats import FP32, INT4, NATIVE, PORTABLE
from dovetail_ort_runtime.errors import InputError, UnavailableError

_DEFAULT_CACHE: Final = ExportOptions().kv_cache


def recipes_for(options: ExportOptions, report: Report) -> list[Recipe]:
    """One recipe, or two of which the first is native and the second portable.

    Args:
        options: settings of the export.
        report: function that is called with one line of text if a native graph was meant and cannot be made.

    Raises:
        InputError: a recipe of the options cannot be read or is none, or two are of one format.
        UnavailableError: a native graph is asked for, and the library that runs it is missing.
    """
    recipes = _given(options.recipes) if options.recipes else _built_in(options, report)
    if recipes[0].format == NATIVE and not kernels.is_available():
        raise UnavailableError(
            f"a native graph cannot be checked without this package's library of operators; {kernels.why_missing()}; "
            "or export with --precision int8 --format portable"
        )
    if options.kv_cache != _DEFAULT_CACHE:
        return [recipe.given(LOWER_NATIVE, cache=options.kv_cache) for recipe in recipes]
    return recipes


def _built_in(options: ExportOptions, report: Report) -> list[Recipe]:
    if options.precision == FP32:
        return [built_in_recipe(FP32)]
    if options.precision == INT4:
        recipe = built_in_recipe("native").given(LOWER_NATIVE, bits=4)
        return [replace(recipe, precision=options.precision)]
    return [built_in_recipe(name) for name in _formats(options.format, report)]


def _given(paths: Sequence[Path]) -> list[Recipe]:
    recipes = [read_recipe(path) for path in paths]
    recipes.sort(key=lambda recipe: recipe.format != NATIVE)  # the native one first
    formats = [recipe.format for recipe in recipes]
    if len(set(formats)) < len(formats):
        raise InputError(
            f"recipes must be one, or a native and a portable one, got {', '.join(formats)}; "
            "compare others with: dovetail-ort graph ablate"
        )
    return recipes


def _formats(name: str, report: Report) -> tuple[str, ...]:
    if name == BOTH_FORMATS:
        return NATIVE, PORTABLE
    if name != AUTO_FORMAT:
        return (name,)
    if kernels.is_available():
        return (NATIVE,)
    report(f"note: writing the portable format, as native graphs do not run here: {kernels.why_missing()}")
    return (PORTABLE,)
