"""What every part of the comparison is made of."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.kernels_comparison.sides import Sides

# Ways to decode, and whether the drafter takes part.
MODES: Final = {"baseline": False, "speculative": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        processes: number of processes of each side, one after another; 3 or more for a result that counts.
        rounds: number of turns of both sides in a process, where a turn takes milliseconds.
        num_prompts: number of prompts of a suite at most, spread over it.
        max_new_tokens: number of tokens of an answer at most.
        contexts: numbers of tokens of context.
        answer_tokens: number of answer tokens of training text.
    """

    processes: int = 3
    rounds: int = 25
    num_prompts: int = 1000
    max_new_tokens: int = 128
    contexts: tuple[int, ...] = (128, 8000)
    answer_tokens: int = 12_000


QUICK = Scale(processes=2, rounds=3, num_prompts=2, max_new_tokens=16, contexts=(128, 512), answer_tokens=300)


class Part(ABC):
    """Some rows of the comparison, in steps that each have new processes.

    Attributes:
        loads_models: whether bundles are loaded as an application loads them: the planner reads stored times.
    """

    loads_models = False

    @abstractmethod
    def steps(self, scale: Scale) -> Sequence[str]:
        """Names of the steps, in order."""

    @abstractmethod
    def measure(self, step: str, sides: Sides, scale: Scale, /) -> Any:
        """What one step measures, as JSON values."""

    @abstractmethod
    def summary(self, measured: Sequence[Any]) -> dict[str, Any]:
        """The result of all steps."""


def over_processes(values: Iterable[float]) -> dict[str, Any]:
    """The median of the values of all processes, and each of them."""
    found = [round(value, 4) for value in values]
    return {"median": round(statistics.median(found), 4), "processes": found}
