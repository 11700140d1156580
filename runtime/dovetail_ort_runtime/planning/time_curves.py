"""What a round costs on one machine."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dovetail_ort_runtime.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeCurves:
    """Milliseconds, interpolated linearly between what was measured.

    Attributes:
        contexts: kept tokens behind which the target was measured, ascending.
        verify_rows: rows of a target forward, ascending from the least that it has; with fewer it takes as long.
        verify_ms: for each context, the time of a forward by its rows.
        catch_up_rows: tokens that a model drafter has yet to read, ascending; none without a model drafter.
        catch_up_ms: the time to read them and draft one token.
        step_ms: of each further token of a chain, or level of a tree.
        branch_ms: of each further token that is expanded in the same level; 0 for a drafter that drafts no trees.
    """

    contexts: tuple[int, ...]
    verify_rows: tuple[int, ...]
    verify_ms: tuple[tuple[float, ...], ...]
    catch_up_rows: tuple[int, ...] = ()
    catch_up_ms: tuple[float, ...] = ()
    step_ms: float = 0.0
    branch_ms: float = 0.0

    def __post_init__(self) -> None:
        for name, points in (("contexts", self.contexts), ("verify_rows", self.verify_rows)):
            if not points or any(a >= b for a, b in pairwise(points)):
                raise InputError(f"{name} must be one or more ascending numbers, got {points}")
        if [len(times) for times in self.verify_ms] != [len(self.verify_rows)] * len(self.contexts):
            raise InputError("verify_ms must have a time for each of verify_rows at each of contexts")
        if len(self.catch_up_rows) != len(self.catch_up_ms):
            raise InputError("catch_up_ms must have a time for each of catch_up_rows")
        drafting_ms = (*self.catch_up_ms, self.step_ms, self.branch_ms)
        if not all(0 <= ms < np.inf for times in (*self.verify_ms, drafting_ms) for ms in times):
            raise InputError("times must be finite numbers of 0 or more")

    @property
    def least_rows(self) -> int:
        """Rows of the smallest target forward."""
        return self.verify_rows[0]

    def verify(self, num_rows: float, context: int) -> float:
        """Time of a target forward; beyond the measured points it goes on as between the last two."""
        by_context = [_interpolated(num_rows, self.verify_rows, times) for times in self.verify_ms]
        return _interpolated(context, self.contexts, by_context)

    def draft(self, num_levels: int, num_unread: int, num_branches: int = 0) -> float:
        """Time of a chain of so many tokens, or of a tree with so many expanded ones beside its first path."""
        if not num_levels:
            return 0.0
        first = _interpolated(num_unread, self.catch_up_rows, self.catch_up_ms)
        return first + (num_levels - 1) * self.step_ms + num_branches * self.branch_ms


def _interpolated(x: float, points: tuple[int, ...], values: tuple[float, ...] | list[float]) -> float:
    if len(points) > 1 and x > points[-1]:
        slope = (values[-1] - values[-2]) / (points[-1] - points[-2])
        return values[-1] + max(slope, 0.0) * (x - points[-1])
    return float(np.interp(x, points, values))
