"""Which graphs an export writes: one for each format that it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from dovetail_ort_export.options import AUTO_FORMAT, BOTH_FORMATS, ExportOptions
from dovetail_ort_export.recipe import LOWER_NATIVE, Recipe, built_in_recipe, read_recipe
from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.formats import NATIVE, PORTABLE
from dovetail_ort_runtime.errors import InputError, UnavailableError

_DEFAULT_CACHE: Final = ExportOptions().kv_cache


def recipes_for(options: ExportOptions, report: Callable[[str], None]) -> list[Recipe]:
    """One recipe, or two of which the first is native and the second portable.

    Args:
        options: of the export.
        report: is told where a native graph was meant and cannot be made.

    Raises:
        InputError: one of the options' recipes cannot be read or is none, or two are of one format.
        UnavailableError: a native graph is asked for, and the library that runs it is missing.
    """
    if options.recipes:
        recipes = _given(options)
    elif options.precision == "fp32":
        recipes = [built_in_recipe("fp32")]
    elif options.precision == "int4":
        recipes = [replace(built_in_recipe("native").given(LOWER_NATIVE, bits=4), precision=options.precision)]
    else:
        recipes = [built_in_recipe(name) for name in _formats(options.format, report)]
    if recipes[0].format == NATIVE and not kernels.is_available():
        raise UnavailableError(
            f"a native graph must have this package's library of operators to be checked; {kernels.why_missing()}; "
            "or export with --precision int8 --format portable"
        )
    if options.kv_cache != _DEFAULT_CACHE:
        return [recipe.given(LOWER_NATIVE, cache=options.kv_cache) for recipe in recipes]
    return recipes


def _given(options: ExportOptions) -> list[Recipe]:
    recipes = sorted(map(read_recipe, options.recipes), key=lambda recipe: recipe.format != NATIVE)
    formats = [recipe.format for recipe in recipes]
    if len(set(formats)) < len(formats):
        raise InputError(
            f"recipes must be one, or a native and a portable one, got {', '.join(formats)}; "
            "compare others with: dovetail-ort graph ablate"
        )
    return recipes


def _formats(name: str, report: Callable[[str], None]) -> tuple[str, ...]:
    if name == BOTH_FORMATS:
        return NATIVE, PORTABLE
    if name != AUTO_FORMAT:
        return (name,)
    if kernels.is_available():
        return (NATIVE,)
    report(f"note: writing the portable format, as native graphs do not run here: {kernels.why_missing()}")
    return (PORTABLE,)
