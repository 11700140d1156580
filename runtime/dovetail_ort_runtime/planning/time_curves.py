"""What a round costs on one machine. It measures nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dovetail_ort_runtime.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeCurves:
    """Milliseconds, interpolated linearly between what was measured.

    Attributes:
        contexts: numbers of kept tokens with which the target's forwards were measured, ascending.
        verify_rows: rows of the target's forwards, ascending from its smallest forward, which any fewer rows cost too.
        verify_ms: for each of `contexts`, the milliseconds of a forward for each of `verify_rows`.
        catch_up_rows: numbers of tokens that a model drafter has yet to read, ascending; empty without a model drafter.
        catch_up_ms: milliseconds to read so many tokens and draft one, for each of `catch_up_rows`.
        step_ms: milliseconds of each further token of a chain, or of each further depth of a tree.
        branch_ms: milliseconds of each further node that is expanded at the same depth; 0 if no trees are drafted.

    Raises:
        InputError: points do not ascend, a time is missing, or a time is negative or not finite.
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
        """Milliseconds of a target forward; beyond the measured points they go on as between the last two.

        Args:
            num_rows: rows of the forward.
            context: kept tokens.
        """
        by_context = [_interpolated(num_rows, self.verify_rows, times) for times in self.verify_ms]
        return _interpolated(context, self.contexts, by_context)

    def draft(self, depth: int, num_unread: int, num_branches: int = 0) -> float:
        """Milliseconds of drafting a chain or a tree.

        Args:
            depth: tokens of the chain, or depth of the tree.
            num_unread: tokens that the drafter has yet to read.
            num_branches: expanded nodes of the tree beside the first one of each depth.
        """
        if not depth:
            return 0.0
        first = _interpolated(num_unread, self.catch_up_rows, self.catch_up_ms)
        return first + (depth - 1) * self.step_ms + num_branches * self.branch_ms


def _interpolated(x: float, points: tuple[int, ...], values: tuple[float, ...] | list[float]) -> float:
    if len(points) > 1 and x > points[-1]:
        slope = (values[-1] - values[-2]) / (points[-1] - points[-2])
        return values[-1] + max(slope, 0.0) * (x - points[-1])
    return float(np.interp(x, points, values))
