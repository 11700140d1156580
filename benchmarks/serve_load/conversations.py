"""The requests of the clients, with the answers that the model gives when it answers nobody else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.prompt_sets import GENERAL
from dovetail_ort import GenerationOptions, Message, Model, SamplingOptions
from dovetail_ort.grammar import GrammarCompiler
from dovetail_ort.suites import HUMANEVAL, load_suite

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 40}, "useful": {"type": "boolean"}},
    "required": ["title", "useful"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
# Every fourth prompt of HumanEval, so that both suites weigh the same.
_HUMANEVAL_STEP: Final = 4
_MAX_TOKENS: Final = (16, 32, 48, 64)
_FOLLOW_UP: Final = "Say the same in one short sentence."


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One request, and what the model answers alone.

    Attributes:
        messages: the conversation up to the answer.
        max_tokens: number of tokens of the answer at most.
        constrained: whether the answer is held to `SCHEMA`.
        text: the answer.
        finish_reason: why the answer ended.
    """

    messages: Sequence[Message]
    max_tokens: int
    constrained: bool
    text: str
    finish_reason: str


def conversations(model: Model) -> list[list[Turn]]:
    """One conversation for each prompt: every third has a second turn, every eighth is held to the schema."""
    prompts = [*load_suite(GENERAL), *load_suite(HUMANEVAL)[::_HUMANEVAL_STEP]]
    compiler = GrammarCompiler(model)
    found = []
    for number, prompt in enumerate(prompts):
        max_tokens = _MAX_TOKENS[number % len(_MAX_TOKENS)]
        turns = [_answered(model, compiler, prompt.messages, max_tokens, constrained=number % 8 == 0)]
        if number % 3 == 0:
            follow_up: list[Message] = [
                {"role": "assistant", "content": turns[0].text},
                {"role": "user", "content": _FOLLOW_UP},
            ]
            turns.append(_answered(model, compiler, [*prompt.messages, *follow_up], max_tokens, constrained=False))
        found.append(turns)
        print(f"\r{number + 1}/{len(prompts)} conversations answered alone", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def _answered(
    model: Model, compiler: GrammarCompiler, messages: Sequence[Message], max_tokens: int, *, constrained: bool
) -> Turn:
    options = GenerationOptions(
        max_new_tokens=max_tokens,
        max_draft_tokens=0,
        sampling=SamplingOptions(),
        constraint=compiler.json_schema(SCHEMA) if constrained else None,
    )
    model.reset()
    answer = model.generate(messages, options)
    return Turn(
        messages=messages,
        max_tokens=max_tokens,
        constrained=constrained,
        text=answer.text,
        finish_reason=answer.finish_reason,
    )
