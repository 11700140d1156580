"""Measure what rounds cost on this machine."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from dovetail_ort_runtime.draft_shape import ChainShape, TreeShape
from dovetail_ort_runtime.drafter import ModelDrafter, TreeDrafter
from dovetail_ort_runtime.generation_options import SamplingOptions
from dovetail_ort_runtime.pass_times import NUM_PAST, time_passes
from dovetail_ort_runtime.proposal import Proposal
from dovetail_ort_runtime.target import Target
from dovetail_ort_runtime.time_curves import TimeCurves

_CHAIN: Final = 5
_WIDTH: Final = 8
_READ: Final = 32


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
    least = target.least_rows
    verify_rows = [least, *(number for number in effort.verify_rows if number > least)]
    contexts = [c for c in effort.contexts if c + effort.verify_rows[-1] <= target.cache.capacity] or [0]
    times = [
        time_passes({"": target}, effort.rounds, effort.seconds, rows=verify_rows, num_past=past)[""]
        for past in contexts
    ]
    rows = tuple(times[0])
    verify_ms = tuple(tuple(round(statistics.median(found[number]), 4) for number in rows) for found in times)
    curves = TimeCurves(contexts=tuple(contexts), verify_rows=rows, verify_ms=verify_ms)
    if model is None:
        return curves
    catch_up_rows = tuple(n for n in effort.catch_up_rows if n + _READ + _CHAIN < target.cache.capacity)
    if not catch_up_rows:  # there is no room to time it, nor for an answer that its price would matter to
        return replace(curves, catch_up_rows=(1,), catch_up_ms=(0.0,))
    catch_up_ms, step_ms = _time_drafter(model, target, catch_up_rows, effort.rounds)
    branch_ms = 0.0 if trees is None else _time_branches(trees, target, effort.rounds)
    return replace(curves, catch_up_rows=catch_up_rows, catch_up_ms=catch_up_ms, step_ms=step_ms, branch_ms=branch_ms)


def _time_drafter(
    model: ModelDrafter, target: Target, catch_up_rows: Sequence[int], rounds: int
) -> tuple[tuple[float, ...], float]:
    """Milliseconds of a first token by the rows to catch up on, and of each further one."""
    firsts: dict[int, list[float]] = {number: [] for number in catch_up_rows}
    steps: list[float] = []
    model.begin(SamplingOptions())
    for _ in range(rounds):
        for number in catch_up_rows:
            one, chain = (
                _draft_ms(model, target, number, partial(model.draft, 0, length, ChainShape.fixed(length)))
                for length in (1, _CHAIN)
            )
            firsts[number].append(one)
            steps.append((chain - one) / (_CHAIN - 1))
    model.rewind(0)
    medians = tuple(round(statistics.median(firsts[number]), 4) for number in catch_up_rows)
    return medians, round(max(0.0, statistics.median(steps)), 4)


def _time_branches(trees: TreeDrafter, target: Target, rounds: int) -> float:
    """Milliseconds of each token that is expanded beside the first of its level."""
    branches = []
    trees.begin(SamplingOptions())
    for _ in range(rounds):
        narrow, wide = (
            _draft_ms(trees, target, 1, partial(trees.draft, 0, shape.num_rows - 1, shape))
            for shape in (TreeShape(num_rows=1 + 2 * k, num_expansions=1, width=k) for k in (1, _WIDTH))
        )
        branches.append((wide - narrow) / (_WIDTH - 1))
    trees.rewind(0)
    return round(max(0.0, statistics.median(branches)), 4)


def _draft_ms(model: ModelDrafter, target: Target, num_unread: int, draft: Callable[[], Proposal]) -> float:
    """Time of a draft behind a short text with an unread end; the second of two, as the first may prepare."""
    tokens = np.arange(_READ + num_unread, dtype=np.int64) % target.vocabulary_size
    states = np.zeros((len(tokens), target.hidden_size), dtype=np.float32)
    model.rewind(0)
    model.observe(tokens[:_READ], states[:_READ])
    model.draft(0, 1, ChainShape.fixed(1))
    for _ in range(2):
        model.rewind(_READ)
        model.observe(tokens[_READ:], states[_READ:])
        started = time.perf_counter()
        draft()
        seconds = time.perf_counter() - started
    return 1e3 * seconds
