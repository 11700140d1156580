"""The same prompts decoded without speculation and with it, in turns, and what comes of comparing them."""

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
        name: of the prompt.
        identical: whether speculation gave the baseline's tokens.
        statistics: by mode.
    """

    name: str
    identical: bool
    statistics: dict[str, Statistics]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeSummary:
    """One mode over all prompts.

    Attributes:
        decode_tokens_per_second: tokens after the first over their time, all prompts together.
        median_tokens_per_second: of the single prompts.
        prefill_tokens_per_second: prompt tokens over their time.
        median_time_to_first_token_ms: of the single prompts.
    """

    decode_tokens_per_second: float
    median_tokens_per_second: float
    prefill_tokens_per_second: float
    median_time_to_first_token_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkResult:
    """The comparison.

    Attributes:
        num_prompts: prompts that were decoded in every mode.
        num_identical: those whose speculative tokens are the baseline's.
        modes: by name.
        speedup: speculative over baseline, of `decode_tokens_per_second`.
        median_speedup: the median of the prompts' own ratios; `speedup_quartiles` beside it.
        accepted_length: mean tokens a round.
        drafted_per_round: mean draft tokens a round.
        accepted_histogram: rounds by accepted draft tokens.
        shares: parts of the decoding time of speculation: draft, verify, other.
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
    """Decodes prompts greedily in both modes; the mode that begins changes from prompt to prompt.

    Args:
        model: answers.
        max_new_tokens: of an answer.
        max_draft_tokens: of a round of the speculative mode.
        template_arguments: of every conversation.
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
        self._decode(prompts[0], BASELINE)  # not counted: the first forwards touch fresh memory
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
    """The figures of a run of one prompt or more.

    Raises:
        InputError: no answer has more than one token, so that no decoding was timed.
    """
    if not any(one.decode_tokens_per_second for record in records for one in record.statistics.values()):
        raise InputError(
            "prompts must have answers of two tokens or more to be timed, got none; take other prompts, or a larger "
            "--max-new-tokens"
        )
    modes = {mode: _mode_summary([record.statistics[mode] for record in records]) for mode in records[0].statistics}
    rate = {mode: summary.decode_tokens_per_second for mode, summary in modes.items()}
    rates = [{mode: item.decode_tokens_per_second for mode, item in record.statistics.items()} for record in records]
    # An answer of one token has no decoding time.
    ratios = [one[SPECULATIVE] / one[BASELINE] for one in rates if one[BASELINE]]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    speculative = [record.statistics[SPECULATIVE] for record in records]
    histograms = [item.accepted_histogram for item in speculative]
    rounds = max(sum(item.rounds for item in speculative), 1)
    decode_seconds = sum(item.decode_seconds for item in speculative) or 1.0
    return BenchmarkResult(
        num_prompts=len(records),
        num_identical=sum(record.identical for record in records),
        modes=modes,
        speedup=rate[SPECULATIVE] / rate[BASELINE],
        median_speedup=middle,
        speedup_quartiles=(low, high),
        accepted_length=1 + sum(item.accepted_tokens for item in speculative) / rounds,
        drafted_per_round=sum(item.drafted_tokens for item in speculative) / rounds,
        accepted_histogram=tuple(map(sum, zip_longest(*histograms, fillvalue=0))),
        shares={
            part: sum(getattr(item, f"{part}_seconds") for item in speculative) / decode_seconds
            for part in ("draft", "verify", "other")
        },
    )


def as_json(result: BenchmarkResult, records: Iterable[PromptRecord]) -> dict[str, Any]:
    """Figures and the main ones of each prompt as JSON values."""
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
