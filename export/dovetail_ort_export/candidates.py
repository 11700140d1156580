"""The graphs that an export may come to: one for each recipe asked for, written, run and compared."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dovetail_ort_export.agreement import LARGEST_MEAN_KL, measure_target
from dovetail_ort_export.export_options import ExportOptions
from dovetail_ort_export.recipe import Recipe, built_in_recipe, read_recipe
from dovetail_ort_export.source import Source
from dovetail_ort_export.target_writer import Candidate, Report, TargetWriter
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.environment import sums_of_8_bits_saturate
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.generation_options import GenerationOptions
from dovetail_ort_runtime.measurements import Int8FormatMeasurements, Measurements
from dovetail_ort_runtime.pass_times import time_passes
from dovetail_ort_runtime.target import EXACT_ROWS

_TIMED_ROUNDS: Final = 15
_TIMING_SECONDS: Final = 20.0


def write_candidates(
    source: Source, options: ExportOptions, max_context: int, folder: Path, report: Report
) -> list[Candidate]:
    """Write the target by every recipe that the options ask for, each into a folder of its own below `folder`."""
    recipes = recipes_for(options)
    writer = TargetWriter(source, options, max_context, report)
    return [writer.write(name, recipe, folder / str(index)) for index, (name, recipe) in enumerate(recipes.items())]


def recipes_for(options: ExportOptions) -> dict[str, Recipe]:
    """The recipes that an export follows, by what reports call them.

    Of several recipes that of a row format which does not suit this processor is left out.

    Raises:
        InputError: one of the options' recipes cannot be read or is none, or two of them are of one INT8 format.
    """
    if options.recipes:
        recipes = {str(path): read_recipe(path) for path in options.recipes}
        formats = [recipe.int8_format for recipe in recipes.values()]
        if len(options.recipes) == 1:
            return recipes
        if None in formats or len(set(formats)) < len(options.recipes):
            raise InputError(
                f"recipes to choose from must be one of each INT8 format, got {', '.join(map(str, formats))}; "
                "give one, or compare others with: dovetail-ort graph ablate"
            )
        unsuited = {"row", "row-unsigned"} - {row_format()}
        return {name: recipe for name, recipe in recipes.items() if recipe.int8_format not in unsuited}
    if options.precision == "fp32":
        return {"fp32": built_in_recipe("fp32")}
    names = {"auto": (row_format(), "block"), "row": (row_format(),)}.get(options.int8_format, (options.int8_format,))
    return {f"int8, scales by {name}": built_in_recipe(name) for name in names}


def row_format() -> str:
    """The row format of this processor: `row-unsigned` where large sums of signed weights are cut off."""
    return "row-unsigned" if sums_of_8_bits_saturate() else "row"


def choose_candidate(
    candidates: Sequence[Candidate], tokens: TokenArray, reference: FloatArray, report: Report
) -> tuple[Candidate, Measurements]:
    """Run one candidate or more on a text, in turns if there are several, and keep one.

    `reference` are the original model's logits (T, V) at the tokens.
    """
    targets = [candidate.open(len(tokens)) for candidate in candidates]
    measured = [measure_target(target, tokens, reference) for target in targets]
    if len(candidates) == 1:
        return candidates[0], measured[0]
    report("timing both formats in turns")
    names = [str(candidate.entry.int8_format) for candidate in candidates]
    times = time_passes(dict(zip(names, targets, strict=True)), rounds=_TIMED_ROUNDS, seconds=_TIMING_SECONDS)
    formats = tuple(
        Int8FormatMeasurements(
            int8_format=name,
            num_bytes=candidate.num_bytes,
            row_invariance=found.row_invariance,
            agreement=found.agreement,
            pass_ms={str(rows): round(statistics.median(ms), 3) for rows, ms in times[name].items()},
        )
        for name, candidate, found in zip(names, candidates, measured, strict=True)
    )
    chosen = names.index(choose_int8_format(formats).int8_format)
    return candidates[chosen], replace(measured[chosen], int8_formats=formats)


def choose_int8_format(measured: Sequence[Int8FormatMeasurements]) -> Int8FormatMeasurements:
    """The fastest of the formats that are row-invariant and close to the model; of all if none is.

    Speed is the geometric mean of the times of passes with 2 rows, what an exact pass has without a draft, to one more
    than `GenerationOptions.max_draft_tokens`. Of equally fast formats the first is kept.
    """
    exact = [one for one in measured if one.row_invariance.identical] or list(measured)
    good = [one for one in exact if one.agreement.mean_kl <= LARGEST_MEAN_KL] or exact
    return min(good, key=round_cost)


def round_cost(measured: Int8FormatMeasurements) -> float:
    """Geometric mean of the milliseconds of passes as long as a round's."""
    longest = 1 + GenerationOptions().max_draft_tokens
    times = [ms for rows, ms in measured.pass_ms.items() if EXACT_ROWS <= int(rows) <= longest]
    return math.exp(sum(map(math.log, times)) / len(times))
