"""Dynamic axes of a graph's inputs and outputs, by name. It needs no torch, so that passes can use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dovetail_ort_runtime.bundle.graph_names import (
    ATTENTION_BIAS,
    INPUT_IDS,
    KEY,
    POSITION_IDS,
    SEQUENCE_LENGTHS,
    TOTAL_LENGTH,
    VALUE,
    past,
    present,
)

Shape = Sequence[int | str]
# By the name of an input or output: names of its dynamic axes by their numbers.
Axes = Mapping[str, Mapping[int, str]]

BATCH: Final = "batch_size"
ROWS: Final = "sequence_length"
SCORED: Final = "num_scored_rows"
CACHE_SLOTS: Final = "max_sequence_length"
_BIAS_COLUMNS: Final = "total_sequence_length"
_CACHE_AXES: Final = {0: BATCH, 2: CACHE_SLOTS}
ROW_AXES: Final = {0: BATCH, 1: ROWS}
# Axes of the inputs that every traced graph has; the last two inputs are GroupQueryAttention's lengths.
INPUT_AXES: Final[Axes] = {
    INPUT_IDS: ROW_AXES,
    POSITION_IDS: ROW_AXES,
    ATTENTION_BIAS: {0: BATCH, 2: ROWS, 3: _BIAS_COLUMNS},
    SEQUENCE_LENGTHS: {0: BATCH},
    TOTAL_LENGTH: {},
}


def past_axes(num_layers: int) -> Axes:
    """Axes of the keys and values that a graph of so many blocks reads."""
    return {past(layer, part): _CACHE_AXES for layer in range(num_layers) for part in (KEY, VALUE)}


def present_axes(num_layers: int) -> Axes:
    """Axes of the keys and values that a graph of so many blocks gives."""
    return {present(layer, part): _CACHE_AXES for layer in range(num_layers) for part in (KEY, VALUE)}
