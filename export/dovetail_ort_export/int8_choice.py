"""Which of the INT8 formats a bundle gets: the faster one at the lengths that speculation uses, if it is good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from dovetail_ort_runtime.generation_options import GenerationOptions
from dovetail_ort_runtime.measurements import Int8FormatMeasurements
from dovetail_ort_runtime.target import EXACT_ROWS

# Nats. On SmolLM2 blocks are at 0.004 and rows at 0.006 to 0.008; rows whose sums a processor cuts off at 0.03.
LARGEST_MEAN_KL: Final = 0.02


def choose_int8_format(measured: Sequence[Int8FormatMeasurements]) -> Int8FormatMeasurements:
    """The fastest of the formats that are row-invariant and close to the model; of all if none is.

    Speed is the geometric mean of the times of passes with 2 rows, what an exact pass has without a draft, to one more
    than `GenerationOptions.max_draft_tokens`.

    Args:
        measured: formats whose passes were timed in turns; of equally fast ones the first is kept.
    """
    exact = [one for one in measured if one.row_invariance.identical] or list(measured)
    good = [one for one in exact if one.agreement.mean_kl <= LARGEST_MEAN_KL] or exact
    return min(good, key=round_cost)


def round_cost(measured: Int8FormatMeasurements) -> float:
    """Geometric mean of the milliseconds of passes as long as a round's."""
    longest = 1 + GenerationOptions().max_draft_tokens
    times = [ms for rows, ms in measured.pass_ms.items() if EXACT_ROWS <= int(rows) <= longest]
    return math.exp(sum(map(math.log, times)) / len(times))
