"""Tokens per second with a short and a long context, with speculation and without.

The context is Python's language reference, which ships with Python. Each step begins at another place of it, and the
model continues it greedily.
"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Sequence
from itertools import product
from typing import Any, Final

from benchmarks.kernels_comparison.part import MODES, Part, Scale, over_processes
from benchmarks.kernels_comparison.sides import AFTER, BEFORE, SideProcess, Sides, running
from benchmarks.timing import in_turn

TEXTS: Final = 3


class Contexts(Part):
    """A step is a process of each side and one text."""

    loads_models = True

    def steps(self, scale: Scale) -> Sequence[str]:
        """One step for each process and text, and at least one for each text."""
        return [f"text {number % TEXTS + 1}, process {number + 1}" for number in range(max(scale.processes, TEXTS))]

    def measure(self, step: str, sides: Sides, scale: Scale) -> dict[str, Any]:
        """By context, mode and side: the answer and its times."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        with running(sides) as workers:
            text = self._text(workers[AFTER], int(step.split()[1].rstrip(",")) - 1, max(scale.contexts))
            for worker in workers.values():
                worker.ask("load", tune=False)
                worker.ask("generate", prompt=text[:64], max_new_tokens=16, speculative=True)  # touches fresh memory
            for turn, (length, mode) in enumerate(product(scale.contexts, MODES)):
                for name in in_turn([*workers], turn):
                    answer = workers[name].ask(
                        "generate",
                        prompt=text[:length],
                        max_new_tokens=scale.max_new_tokens,
                        speculative=MODES[mode],
                    )
                    found.setdefault(str(length), {}).setdefault(mode, {})[name] = answer
        return found

    def _text(self, worker: SideProcess, number: int, longest: int) -> list[int]:
        reference = "\n".join(pydoc_data.topics.topics.values())
        token_ids: list[int] = worker.ask("tokenize", text=reference)["token_ids"]
        return token_ids[number * ((len(token_ids) - longest) // TEXTS) :]

    def summary(self, measured: Sequence[Any]) -> dict[str, Any]:
        """By context and mode: tokens per second of both, their ratio, and the native side's over its shortest context.

        `identical` counts the native texts whose answer with speculation is the baseline's.
        """
        contexts = list(measured[0])
        found = {
            length: {
                "identical": sum(
                    one[length]["baseline"][AFTER]["token_ids"] == one[length]["speculative"][AFTER]["token_ids"]
                    for one in measured
                ),
                "texts": len(measured),
                **{mode: _mode(measured, length, mode, contexts[0]) for mode in MODES},
            }
            for length in contexts
        }
        return {"contexts": found}


def _mode(measured: Sequence[Any], length: str, mode: str, shortest: str) -> dict[str, Any]:
    pairs = [one[length][mode] for one in measured]
    return {
        "tokens_per_second": {name: over_processes(_rate(pair[name]) for pair in pairs) for name in (BEFORE, AFTER)},
        "prefill_seconds": {
            name: over_processes(pair[name]["prefill_seconds"] for pair in pairs) for name in (BEFORE, AFTER)
        },
        "after_over_before": over_processes(_rate(pair[AFTER]) / _rate(pair[BEFORE]) for pair in pairs),
        "over_shortest_context": over_processes(
            _rate(one[length][mode][AFTER]) / _rate(one[shortest][mode][AFTER]) for one in measured
        ),
    }


def _rate(answer: dict[str, Any]) -> float:
    """Tokens per second after the first token."""
    rate: float = (len(answer["token_ids"]) - 1) / answer["decode_seconds"]
    return rate
