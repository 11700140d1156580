"""Answer tokens per second of the text that a target writes for the training of its head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.kernels_comparison.part import Part, Scale, over_processes
from benchmarks.kernels_comparison.sides import AFTER, BEFORE, Sides, running
from benchmarks.result_files import REPOSITORY
from benchmarks.timing import in_turn

# The prompts that `make train` mixes in; without the file the model asks itself.
PROMPTS: Final = REPOSITORY / "build" / "prompts.jsonl"


class TrainingText(Part):
    """A step is a seed and a process of each side, one after the other."""

    def steps(self, scale: Scale) -> Sequence[str]:
        """One step for each process."""
        return [f"seed {number}" for number in range(scale.processes)]

    def measure(self, step: str, sides: Sides, scale: Scale) -> dict[str, Any]:
        """By side: answer tokens and seconds."""
        seed = int(step.split()[1])
        found = {}
        with running(sides) as workers, TemporaryDirectory() as folder:
            for name in in_turn([*workers], seed):
                found[name] = workers[name].ask(
                    "write_text",
                    directory=str(Path(folder) / name),
                    prompts=str(PROMPTS) if PROMPTS.exists() else None,
                    num_answer_tokens=scale.answer_tokens,
                    seed=seed,
                )
        return found

    def summary(self, measured: Sequence[Any]) -> dict[str, Any]:
        """Answer tokens per second of both, and their ratio."""
        rates = [
            {name: one[name]["answer_tokens"] / one[name]["seconds"] for name in (BEFORE, AFTER)} for one in measured
        ]
        return {
            "answer_tokens_per_second": {name: over_processes(one[name] for one in rates) for name in (BEFORE, AFTER)},
            "after_over_before": over_processes(one[AFTER] / one[BEFORE] for one in rates),
        }
