"""HumanEval and the general prompts: both ways to decode on both sides, prompt by prompt in turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import product
from typing import Any, Final

from benchmarks.kernels_comparison.part import MODES, Part, Scale
from benchmarks.kernels_comparison.sides import AFTER, BEFORE, Sides, running
from benchmarks.prompt_sets import GENERAL, spread
from benchmarks.timing import in_turn, quartiles
from dovetail_ort.suites import HUMANEVAL

PROMPTS_A_STEP: Final = 20


class Suite(Part):
    """A step is some prompts in a process of each side; all prompts are answered in as many runs as `processes`.

    Args:
        suite: name or file, as in `load_suite`.
    """

    loads_models = True

    def __init__(self, suite: str) -> None:
        self._suite = suite

    def steps(self, scale: Scale) -> Sequence[str]:
        """Runs, each in groups of prompts."""
        groups = range(0, len(spread(self._suite, scale.num_prompts)), PROMPTS_A_STEP)
        return [f"run {run + 1}, from {first}" for run, first in product(range(scale.processes), groups)]

    def measure(self, step: str, sides: Sides, scale: Scale) -> list[Any]:
        """Of each prompt: its name, and tokens and seconds by mode and side."""
        first = int(step.split()[-1])
        prompts = spread(self._suite, scale.num_prompts)[first : first + PROMPTS_A_STEP]
        systems = list(product(sides, MODES))
        found = []
        with running(sides) as workers:
            for worker in workers.values():
                worker.ask("load", tune=False)
                worker.ask("generate", prompt=prompts[0].messages, max_new_tokens=16, speculative=True)
            for number, prompt in enumerate(prompts, first):
                answers: dict[str, dict[str, Any]] = {name: {} for name in sides}
                for name, mode in in_turn(systems, number):
                    answers[name][mode] = workers[name].ask(
                        "generate",
                        prompt=prompt.messages,
                        max_new_tokens=scale.max_new_tokens,
                        speculative=MODES[mode],
                    )
                found.append({"name": prompt.name, "sides": {name: _short(given) for name, given in answers.items()}})
        return found

    def summary(self, measured: Sequence[Any]) -> dict[str, Any]:
        """Tokens per second of both sides and modes over all prompts and runs, ratios, and the slowest prompts."""
        answers = [answer for step in measured for answer in step]
        rates = {
            name: {mode: _rate([answer["sides"][name] for answer in answers], mode) for mode in MODES}
            for name in (BEFORE, AFTER)
        }
        by_prompt: dict[str, list[float]] = {}
        for answer in answers:
            own = answer["sides"][AFTER]
            if own["baseline"]["tokens"] > 0:
                speedup = _rate([own], "speculative") / _rate([own], "baseline")
                by_prompt.setdefault(answer["name"], []).append(speedup)
        speedups = {name: statistics.median(found) for name, found in by_prompt.items()}
        slowest = min(speedups, key=speedups.__getitem__)
        return {
            "prompts": len({answer["name"] for answer in answers}),
            "answers": len(answers),
            "identical": {
                name: sum(answer["sides"][name]["identical"] for answer in answers) for name in (BEFORE, AFTER)
            },
            "tokens_per_second": {
                name: {mode: round(rate, 2) for mode, rate in found.items()} for name, found in rates.items()
            },
            "tokens_a_round": {
                name: round(_tokens_a_round([answer["sides"][name]["speculative"] for answer in answers]), 3)
                for name in (BEFORE, AFTER)
            },
            "speedup": {name: round(found["speculative"] / found["baseline"], 4) for name, found in rates.items()},
            "speculative_after_over_before": round(rates[AFTER]["speculative"] / rates[BEFORE]["speculative"], 4),
            "baseline_after_over_before": round(rates[AFTER]["baseline"] / rates[BEFORE]["baseline"], 4),
            "speedup_by_prompt_quartiles": quartiles([*speedups.values()]),
            "slowest_prompt": {"name": slowest, "speedup": round(speedups[slowest], 4)},
        }


def _short(answers: dict[str, Any]) -> dict[str, Any]:
    """What is kept of the answers of one side: the number of tokens after the first one, and their seconds."""
    found: dict[str, Any] = {
        mode: {
            "tokens": len(answer["token_ids"]) - 1,
            "seconds": answer["decode_seconds"],
            "rounds": answer["rounds"],
        }
        for mode, answer in answers.items()
    }
    found["identical"] = answers["baseline"]["token_ids"] == answers["speculative"]["token_ids"]
    return found


def _rate(answers: Sequence[dict[str, Any]], mode: str) -> float:
    tokens: int = sum(answer[mode]["tokens"] for answer in answers)
    seconds: float = sum(answer[mode]["seconds"] for answer in answers)
    rate: float = tokens / seconds if seconds else 0.0
    return rate


def _tokens_a_round(answers: Sequence[dict[str, Any]]) -> float:
    tokens: int = sum(answer["tokens"] for answer in answers)
    rounds: int = sum(answer["rounds"] for answer in answers)
    return tokens / max(rounds, 1)


HUMANEVAL_PART: Final = Suite(HUMANEVAL)
GENERAL_PART: Final = Suite(GENERAL)
