"""The same prompts decoded without speculation and with it, in turns, and how the two compare. It prints nothing."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from dovetail_ort.suites import SuitePrompt
from dovetail_ort_runtime import Generation, GenerationOptions, Model, SamplingOptions, Statistics
from dovetail_ort_runtime.errors import InputError

SPECULATIVE: Final = "speculative"
BASELINE: Final = "baseline"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRecord:
    """One prompt, decoded in each mode.

    Attributes:
        name: name of the prompt.
        identical: whether speculation gave the baseline's tokens.
        statistics: counts and times of the answer, by the name of the mode.
    """

    name: str
    identical: bool
    statistics: dict[str, Statistics]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeSummary:
    """Speed of one mode over all prompts.

    Attributes:
        decode_tokens_per_second: tokens after the first divided by their time, for all prompts together.
        median_tokens_per_second: median of the prompts' own decoding speeds.
        prefill_tokens_per_second: prompt tokens that were read divided by their time, for all prompts together.
        median_time_to_first_token_ms: median of the prompts' times to the first token, in milliseconds.
    """

    decode_tokens_per_second: float
    median_tokens_per_second: float
    prefill_tokens_per_second: float
    median_time_to_first_token_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkResult:
    """Speculation compared with the baseline, over all prompts.

    Attributes:
        num_prompts: number of prompts that were decoded in every mode.
        num_identical: number of prompts whose speculative tokens are the baseline's.
        modes: summary of each mode, by its name.
        speedup: decoding speed with speculation divided by that of the baseline, for all prompts together.
        median_speedup: median of the prompts' own speedups.
        speedup_quartiles: lower and upper quartile of the prompts' own speedups.
        accepted_length: mean number of tokens of a round, the bonus token included.
        drafted_per_round: mean number of draft tokens of a round.
        accepted_histogram: number of rounds for each number of accepted draft tokens, from 0 on.
        shares: share of speculation's decoding time for each of `draft`, `verify` and `other`.
    """

    num_prompts: int
    num_identical: int
    modes: dict[str, ModeSummary]
    speedup: float
    median_speedup: float
    speedup_quartiles: tuple[float, float]
    accepted_length: float
    drafted_per_round: float
    accepted_histogram: tuple[int, ...]
    shares: dict[str, float]


class Benchmark:
    """Decodes prompts greedily in both modes. The mode that begins changes from prompt to prompt.

    Args:
        model: the model that answers.
        max_new_tokens: largest number of tokens of an answer.
        max_draft_tokens: largest number of draft tokens in a round of the speculative mode.
        template_arguments: values that the chat template gets with every conversation.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_new_tokens: int,
        max_draft_tokens: int,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        baseline = GenerationOptions(max_new_tokens=max_new_tokens, max_draft_tokens=0, sampling=SamplingOptions())
        self._model = model
        self._template_arguments = template_arguments
        self._options = {
            BASELINE: baseline,
            SPECULATIVE: dataclasses.replace(baseline, max_draft_tokens=max_draft_tokens),
        }

    def run(self, prompts: Sequence[SuitePrompt]) -> Iterator[PromptRecord]:
        """Decode every prompt in every mode."""
        self._decode(prompts[0], BASELINE)  # not counted, because the first forwards touch new memory
        modes = list(self._options)
        for number, prompt in enumerate(prompts):
            start = number % len(modes)
            answers = {mode: self._decode(prompt, mode) for mode in modes[start:] + modes[:start]}
            yield PromptRecord(
                name=prompt.name,
                identical=answers[SPECULATIVE].token_ids == answers[BASELINE].token_ids,
                statistics={mode: answers[mode].statistics for mode in modes},
            )

    def _decode(self, prompt: SuitePrompt, mode: str) -> Generation:
        self._model.reset()
        return self._model.generate(prompt.messages, self._options[mode], template_arguments=self._template_arguments)


def summarise(records: Sequence[PromptRecord]) -> BenchmarkResult:
    """Summarise the records of one prompt or more.

    Raises:
        InputError: no answer has more than one token, so that no decoding was timed.
    """
    if not any(item.decode_tokens_per_second for record in records for item in record.statistics.values()):
        raise InputError(
            "every answer has one token only, so no decoding was timed; take other prompts, or a larger "
            "--max-new-tokens"
        )
    modes = {mode: _mode_summary([record.statistics[mode] for record in records]) for mode in records[0].statistics}
    lower, median, upper = _quartiles(_speedups(records))
    speculative = [record.statistics[SPECULATIVE] for record in records]
    rounds = max(sum(item.rounds for item in speculative), 1)
    return BenchmarkResult(
        num_prompts=len(records),
        num_identical=sum(record.identical for record in records),
        modes=modes,
        speedup=modes[SPECULATIVE].decode_tokens_per_second / modes[BASELINE].decode_tokens_per_second,
        median_speedup=median,
        speedup_quartiles=(lower, upper),
        accepted_length=1 + sum(item.accepted_tokens for item in speculative) / rounds,
        drafted_per_round=sum(item.drafted_tokens for item in speculative) / rounds,
        accepted_histogram=_accepted_histogram(speculative),
        shares=_shares(speculative),
    )


def _speedups(records: Sequence[PromptRecord]) -> list[float]:
    """Each prompt's own speedup; an answer of one token has no decoding time, and so no speedup."""
    found = []
    for record in records:
        baseline = record.statistics[BASELINE].decode_tokens_per_second
        if baseline:
            found.append(record.statistics[SPECULATIVE].decode_tokens_per_second / baseline)
    return found


def _quartiles(numbers: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; a single number is all three."""
    if len(numbers) == 1:
        return numbers[0], numbers[0], numbers[0]
    lower, median, upper = statistics.quantiles(numbers, n=4)
    return lower, median, upper


def _accepted_histogram(speculative: Sequence[Statistics]) -> tuple[int, ...]:
    """Number of rounds of all answers for each number of accepted draft tokens, from 0 on."""
    histograms = [item.accepted_histogram for item in speculative]
    return tuple(sum(rounds) for rounds in zip_longest(*histograms, fillvalue=0))


def _shares(speculative: Sequence[Statistics]) -> dict[str, float]:
    decode_seconds = sum(item.decode_seconds for item in speculative) or 1.0
    return {
        "draft": sum(item.draft_seconds for item in speculative) / decode_seconds,
        "verify": sum(item.verify_seconds for item in speculative) / decode_seconds,
        "other": sum(item.other_seconds for item in speculative) / decode_seconds,
    }


def as_json(result: BenchmarkResult, records: Iterable[PromptRecord]) -> dict[str, Any]:
    """A result as JSON values, with the main figures of each prompt."""
    return {**dataclasses.asdict(result), "prompts": [_prompt_json(record) for record in records]}


def _prompt_json(record: PromptRecord) -> dict[str, Any]:
    rates = {mode: round(item.decode_tokens_per_second, 2) for mode, item in record.statistics.items()}
    speculative = record.statistics[SPECULATIVE]
    return {
        "name": record.name,
        "identical": record.identical,
        "new_tokens": speculative.new_tokens,
        "accepted_length": round(speculative.accepted_length, 3),
        "decode_tokens_per_second": rates,
    }


def _mode_summary(items: Sequence[Statistics]) -> ModeSummary:
    read = sum(item.prompt_tokens - item.cached_tokens for item in items)
    decoded = sum(item.new_tokens - 1 for item in items)
    return ModeSummary(
        decode_tokens_per_second=_rate(decoded, sum(item.decode_seconds for item in items)),
        median_tokens_per_second=statistics.median(item.decode_tokens_per_second for item in items),
        prefill_tokens_per_second=_rate(read, sum(item.prefill_seconds for item in items)),
        median_time_to_first_token_ms=1e3 * statistics.median(item.time_to_first_token_seconds for item in items),
    )


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds else 0.0
