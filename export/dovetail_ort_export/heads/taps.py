"""Which levels of a target a drafter reads, and what the target's graph makes of them. It knows no graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.formats import FP32, INT8
from dovetail_ort_runtime.checks import must_be, must_be_at_least, must_be_one_of
from dovetail_ort_runtime.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Taps:
    """Features = weight . norms(levels side by side) + bias.

    Attributes:
        levels: numbers of the levels, in the order in which they stand side by side, k of them. Level i is the input of
            block i; level L is the output of the last block, before the final norm.
        weight: (F, k * E) float32; None leaves the levels as they are, F = k * E.
        bias: (F,) float32, or None.
        norm_before_fc: (k * E,) float32, weight of an RMS norm over all levels side by side; or None.
        level_norms: k arrays (E,) float32, weights of RMS norms over each level; or None.
        norm_epsilon: what the norms add to the mean of squares.
        precision: number format of the weight.
    """

    levels: tuple[int, ...]
    weight: FloatArray | None = None
    bias: FloatArray | None = None
    norm_before_fc: FloatArray | None = None
    level_norms: tuple[FloatArray, ...] | None = None
    norm_epsilon: float = 1e-5
    precision: Literal["int8", "fp32"] = "fp32"

    def __post_init__(self) -> None:
        must_be("levels", "one number or more", self.levels, holds=len(self.levels) > 0)
        for level in self.levels:
            must_be_at_least("levels", level, 0)
        must_be_one_of("precision", self.precision, (INT8, FP32))
        parts = (self.bias, self.norm_before_fc, self.level_norms)
        if self.weight is None and any(part is not None for part in parts):
            raise InputError("Taps without a weight have neither a bias nor norms.")
        if self.level_norms is not None:
            rule = "as many as there are levels"
            must_be("level_norms", rule, len(self.level_norms), holds=len(self.level_norms) == len(self.levels))
