"""Measure what rounds cost on this machine.

Everything is timed where decoding has it: a forward of several rows after a draft, a draft after a forward, a single
row after others like it. A graph that runs again and again by itself finds its weights in the caches and its threads
awake. Several rows would then seem to cost little more than one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from dovetail_ort_runtime.drafting.drafter import ModelDrafter, TreeDrafter
from dovetail_ort_runtime.drafting.proposal import Proposal
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.forward_times import NUM_PAST, RunForward, target_forwards
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.options import SamplingOptions
from dovetail_ort_runtime.planning.time_curves import TimeCurves

# Stored beside the times: name a new one when a change makes other times of the same machine.
METHOD: Final = "in rounds"
_CHAIN: Final = 5
_WIDTH: Final = 8
_READ: Final = 32
_LEAST_ROUNDS: Final = 3
# Single rows that run before one is timed.
_PLAIN_STEPS: Final = 2
# Rows of the forward that runs before a draft is timed.
_VERIFIED_ROWS: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        contexts: as of `TimeCurves`, like `catch_up_rows`.
        verify_rows: likewise, beside the least that the target has.
        rounds: how often each is timed.
        seconds: after which no further round begins, if there are three, for each context.
    """

    contexts: tuple[int, ...]
    verify_rows: tuple[int, ...]
    catch_up_rows: tuple[int, ...]
    rounds: int
    seconds: float


# At most a few seconds where the first load measures. Longer contexts cost what lies on the line through these two.
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


def measure_curves(target: Target, model: ModelDrafter | None, trees: TreeDrafter | None, effort: Effort) -> TimeCurves:
    """Medians over rounds in which each size takes its turn.

    Args:
        target: its cache is overwritten, and empty afterwards.
        model: the drafter, if one runs a model; it forgets what it observed.
        trees: the same model, if it drafts trees.
        effort: what is beyond the cache is left out.
    """
    contexts = [c for c in effort.contexts if c + effort.verify_rows[-1] <= target.cache.capacity] or [0]
    room = min(target.max_rows, target.cache.capacity - contexts[0])
    sizes = (target.least_rows, *(number for number in effort.verify_rows if number > target.least_rows))
    rows = tuple(number for number in sizes if number <= room)
    catch_up_rows = tuple(n for n in effort.catch_up_rows if n + _READ + _CHAIN < target.cache.capacity)
    timed = None if model is None or not catch_up_rows else _TimedDrafter(model, target)
    curves = TimeCurves(
        contexts=tuple(contexts),
        verify_rows=rows,
        verify_ms=tuple(_time_verification(target, timed, context, rows, effort) for context in contexts),
    )
    if model is None:
        return curves
    if timed is None:  # there is no room to time it, nor for an answer that its price would matter to
        return replace(curves, catch_up_rows=(1,), catch_up_ms=(0.0,))
    verify = target_forwards(target, min(NUM_PAST, contexts[-1]))
    catch_up_ms, step_ms = _time_chains(timed, verify, catch_up_rows, effort.rounds)
    branch_ms = 0.0 if trees is None else _time_branches(timed, trees, verify, effort.rounds)
    target.cache.rewind(0)
    model.rewind(0)
    return replace(curves, catch_up_rows=catch_up_rows, catch_up_ms=catch_up_ms, step_ms=step_ms, branch_ms=branch_ms)


class _TimedDrafter:
    """A drafter that has read a short text, and drafts after some unread tokens of it."""

    def __init__(self, model: ModelDrafter, target: Target) -> None:
        self._model = model
        longest = _READ + max(THOROUGH.catch_up_rows)
        self._tokens = np.arange(longest, dtype=np.int64) % target.vocabulary_size
        self._states = np.zeros((longest, target.hidden_size), dtype=np.float32)
        model.begin(SamplingOptions())
        model.rewind(0)
        model.observe(self._tokens[:_READ], self._states[:_READ])
        model.draft(0, 1, ChainShape.fixed(1))

    def chain_ms(self, num_unread: int, length: int) -> float:
        """Milliseconds of a chain."""
        return self.draft_ms(num_unread, partial(self._model.draft, 0, length, ChainShape.fixed(length)))

    def draft_ms(self, num_unread: int, draft: Callable[[], Proposal]) -> float:
        """Milliseconds of a draft of this model."""
        self._model.rewind(_READ)
        self._model.observe(self._tokens[_READ : _READ + num_unread], self._states[_READ : _READ + num_unread])
        return _milliseconds(draft)


def _time_verification(
    target: Target, drafter: _TimedDrafter | None, context: int, rows: Sequence[int], effort: Effort
) -> tuple[float, ...]:
    """Milliseconds of a forward by its rows, with so many tokens of context."""
    forward = target_forwards(target, context)
    found: dict[int, list[float]] = {number: [] for number in rows}
    started = time.perf_counter()
    for finished in range(effort.rounds):
        if finished >= _LEAST_ROUNDS and time.perf_counter() - started > effort.seconds:
            break
        for number in rows:
            if number == rows[0] or drafter is None:
                for _ in range(_PLAIN_STEPS):
                    forward(rows[0])
            else:
                drafter.chain_ms(1, _CHAIN)
            found[number].append(_milliseconds(partial(forward, number)))
    target.cache.rewind(0)
    return tuple(_median(found[number]) for number in rows)


def _time_chains(
    drafter: _TimedDrafter, verify: RunForward, catch_up_rows: Sequence[int], rounds: int
) -> tuple[tuple[float, ...], float]:
    """Milliseconds of a first token by the rows to catch up on, and of each further one."""
    firsts: dict[int, list[float]] = {number: [] for number in catch_up_rows}
    steps: list[float] = []
    for _ in range(rounds):
        for number in catch_up_rows:
            verify(_VERIFIED_ROWS)
            one = drafter.chain_ms(number, 1)
            verify(_VERIFIED_ROWS)
            chain = drafter.chain_ms(number, _CHAIN)
            firsts[number].append(one)
            steps.append((chain - one) / (_CHAIN - 1))
    return tuple(_median(firsts[number]) for number in catch_up_rows), max(0.0, _median(steps))


def _time_branches(drafter: _TimedDrafter, trees: TreeDrafter, verify: RunForward, rounds: int) -> float:
    """Milliseconds of each token that is expanded beside the first of its level."""
    branches = []
    for _ in range(rounds):
        times = []
        for width in (1, _WIDTH):
            shape = TreeShape(num_rows=1 + 2 * width, num_expansions=1, width=width)
            verify(_VERIFIED_ROWS)
            times.append(drafter.draft_ms(1, partial(trees.draft, 0, shape.num_rows - 1, shape)))
        branches.append((times[1] - times[0]) / (_WIDTH - 1))
    return max(0.0, _median(branches))


def _milliseconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


def _median(times: Sequence[float]) -> float:
    return round(statistics.median(times), 4)
