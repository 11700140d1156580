"""The prompts for measurements: our own, in `prompts/`, and HumanEval's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dovetail_ort.suites import SuitePrompt, load_suite
from dovetail_ort_runtime.bundle.bundle import Bundle

_FOLDER: Final = Path(__file__).parent / "prompts"
# Prompts about anything but code, for measuring only.
GENERAL: Final = str(_FOLDER / "general.jsonl")
# Prompts on which the numbers of draft tokens were chosen.
TUNING: Final = str(_FOLDER / "tuning.jsonl")


def spread(suite: str, count: int | None) -> list[SuitePrompt]:
    """Prompts that are spread evenly over a suite.

    Args:
        suite: name or file, as in `load_suite`.
        count: number of prompts at most; None for all of them.
    """
    prompts = load_suite(suite)
    chosen = len(prompts) if count is None else min(count, len(prompts))
    return [prompts[number * len(prompts) // chosen] for number in range(chosen)]


def prompt_token_ids(bundle: Bundle, suite: Sequence[SuitePrompt]) -> list[list[int]]:
    """The prompts of a suite as a bundle's chat template and tokenizer write them."""
    tokenizer = bundle.tokenizer()
    template = bundle.chat_template()
    assert template is not None, "the bundle has no chat template"
    return [tokenizer.encode(template.render(prompt.messages), add_special_tokens=False) for prompt in suite]
