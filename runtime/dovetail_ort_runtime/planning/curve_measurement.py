"""Measure what rounds cost on this machine.

Everything is timed as decoding runs it: a forward of several rows after a draft, a draft after a forward, a single row
after other single rows. A graph that runs again and again by itself finds its weights in the caches and its threads
awake. Several rows would then seem to cost little more than one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from dovetail_ort_runtime.bundle.graph_names import HIDDEN_STATES
from dovetail_ort_runtime.drafting.drafter import ModelDrafter
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.forward_times import LEAST_ROUNDS, NUM_PAST, RunForward, milliseconds, target_forwards
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.options import SamplingOptions
from dovetail_ort_runtime.planning.time_curves import TimeCurves

# Stored beside the times: name a new one when a change makes other times of the same machine.
METHOD: Final = "in rounds"
# Tokens of the chains that are timed.
_CHAIN: Final = 5
# Nodes at one depth that the wider one of two timed trees expands.
_WIDTH: Final = 8
# Tokens that a timed drafter has read.
_READ: Final = 32
# Single rows that run before one is timed.
_BASELINE_FORWARDS: Final = 2
# Rows of the forward that runs before a draft is timed.
_VERIFIED_ROWS: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        contexts: numbers of kept tokens with which the target's forwards are timed, ascending.
        verify_rows: rows of the target's forwards, ascending; the target's least number of rows is timed in any case.
        catch_up_rows: numbers of tokens that the drafter reads before its first draft token, ascending.
        rounds: number of times that each size is timed.
        seconds: seconds after which no further round of forwards begins, with each context; three rounds are timed in
            any case.
    """

    contexts: tuple[int, ...]
    verify_rows: tuple[int, ...]
    catch_up_rows: tuple[int, ...]
    rounds: int
    seconds: float


# A few seconds at most, where the first load measures. Times with longer contexts lie on the line through these two.
BRIEF: Final = Effort(
    contexts=(NUM_PAST, 1024), verify_rows=(4, 8, 12, 16), catch_up_rows=(1, 4), rounds=5, seconds=1.0
)
THOROUGH: Final = Effort(
    contexts=(NUM_PAST, 1024),
    verify_rows=(2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32),
    catch_up_rows=(1, 2, 4, 8),
    rounds=40,
    seconds=20.0,
)


def measure_curves(target: Target, model: ModelDrafter | None, effort: Effort) -> TimeCurves:
    """Medians over rounds in which each size takes its turn.

    Args:
        target: the target; its cache is overwritten, and empty afterwards.
        model: the drafter, if one runs a model; it forgets what it observed. Its trees are timed if it drafts trees and
            the target keeps side branches.
        effort: how much is measured; sizes that the cache has no room for are left out.
    """
    capacity = target.cache.capacity
    contexts = [context for context in effort.contexts if context + effort.verify_rows[-1] <= capacity] or [0]
    rows = _rows_that_fit(target, contexts[0], effort)
    catch_up_rows = tuple(number for number in effort.catch_up_rows if number + _READ + _CHAIN < capacity)
    timed: _TimedDrafter | None = None
    if model is not None and catch_up_rows:
        timed = _TimedDrafter(model, target)
    curves = TimeCurves(
        contexts=tuple(contexts),
        verify_rows=rows,
        verify_ms=tuple(_time_verification(target, timed, context, rows, effort) for context in contexts),
    )
    if model is None:
        return curves
    if timed is None:
        # In a cache too short to time the drafter, no answer is long enough that its price would matter.
        return replace(curves, catch_up_rows=(1,), catch_up_ms=(0.0,))
    verify = target_forwards(target, min(NUM_PAST, contexts[-1]))
    catch_up_ms, step_ms = _time_chains(timed, verify, catch_up_rows, effort.rounds)
    branch_ms = 0.0
    if model.drafts_trees and target.keeps_branches:
        branch_ms = _time_branches(timed, verify, effort.rounds)
    target.cache.rewind(0)
    model.rewind(0)
    return replace(curves, catch_up_rows=catch_up_rows, catch_up_ms=catch_up_ms, step_ms=step_ms, branch_ms=branch_ms)


def _rows_that_fit(target: Target, context: int, effort: Effort) -> tuple[int, ...]:
    """Rows of the target's smallest forward, and the larger numbers of rows that it has room for after a context."""
    room = min(target.max_rows, target.cache.capacity - context)
    larger = [number for number in effort.verify_rows if number > target.least_rows]
    return tuple(number for number in (target.least_rows, *larger) if number <= room)


class _TimedDrafter:
    """A drafter that has read a short text, and drafts after some unread tokens of it."""

    def __init__(self, model: ModelDrafter, target: Target) -> None:
        self._model = model
        longest = _READ + max(THOROUGH.catch_up_rows)
        self._tokens = np.arange(longest, dtype=np.int64) % target.vocabulary_size
        width = target.hidden_size if model.reads == HIDDEN_STATES else target.feature_size
        self._states = np.zeros((longest, width), dtype=np.float32)
        model.begin(SamplingOptions())
        model.rewind(0)
        model.observe(self._tokens[:_READ], self._states[:_READ])
        model.draft(0, 1, ChainShape.fixed(1))

    def chain_ms(self, num_unread: int, length: int) -> float:
        """Milliseconds of a chain after some unread tokens."""
        self._leave_unread(num_unread)
        return milliseconds(partial(self._model.draft, 0, length, ChainShape.fixed(length)))

    def tree_ms(self, width: int) -> float:
        """Milliseconds of a tree of depth 2, with so many nodes at each depth, after one unread token."""
        shape = TreeShape(num_rows=1 + 2 * width, num_expansions=1, width=width)
        self._leave_unread(1)
        return milliseconds(partial(self._model.draft, 0, shape.num_rows - 1, shape))

    def _leave_unread(self, number: int) -> None:
        end = _READ + number
        self._model.rewind(_READ)
        self._model.observe(self._tokens[_READ:end], self._states[_READ:end])


def _time_verification(
    target: Target, drafter: _TimedDrafter | None, context: int, rows: Sequence[int], effort: Effort
) -> tuple[float, ...]:
    """Milliseconds of a forward, for each number of rows, with so many tokens of context."""
    forward = target_forwards(target, context)
    found: dict[int, list[float]] = {number: [] for number in rows}
    started = time.perf_counter()
    for finished in range(effort.rounds):
        if finished >= LEAST_ROUNDS and time.perf_counter() - started > effort.seconds:
            break
        for number in rows:
            if number == rows[0] or drafter is None:
                for _ in range(_BASELINE_FORWARDS):
                    forward(rows[0])
            else:
                drafter.chain_ms(1, _CHAIN)
            found[number].append(milliseconds(partial(forward, number)))
    target.cache.rewind(0)
    return tuple(_median(found[number]) for number in rows)


def _time_chains(
    drafter: _TimedDrafter, verify: RunForward, catch_up_rows: Sequence[int], rounds: int
) -> tuple[tuple[float, ...], float]:
    """Milliseconds of a first token, for each number of rows to catch up on, and milliseconds of each further token."""
    firsts: dict[int, list[float]] = {number: [] for number in catch_up_rows}
    steps: list[float] = []
    for _ in range(rounds):
        for number in catch_up_rows:
            verify(_VERIFIED_ROWS)
            first_ms = drafter.chain_ms(number, 1)
            verify(_VERIFIED_ROWS)
            chain_ms = drafter.chain_ms(number, _CHAIN)
            firsts[number].append(first_ms)
            steps.append((chain_ms - first_ms) / (_CHAIN - 1))
    return tuple(_median(firsts[number]) for number in catch_up_rows), max(0.0, _median(steps))


def _time_branches(drafter: _TimedDrafter, verify: RunForward, rounds: int) -> float:
    """Milliseconds of each node that is expanded beside the first of its depth."""
    branches: list[float] = []
    for _ in range(rounds):
        verify(_VERIFIED_ROWS)
        narrow_ms = drafter.tree_ms(1)
        verify(_VERIFIED_ROWS)
        wide_ms = drafter.tree_ms(_WIDTH)
        branches.append((wide_ms - narrow_ms) / (_WIDTH - 1))
    return max(0.0, _median(branches))


def _median(times: Sequence[float]) -> float:
    return round(statistics.median(times), 4)
