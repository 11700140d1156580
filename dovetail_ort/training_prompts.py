"""What the user of `dovetail-ort train` wants the target to write about, read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dovetail_ort.suites import read_jsonl, suite_prompt
from dovetail_ort_export.training.options import TrainingPrompts
from dovetail_ort_runtime import Message


def load_training_prompts(path: Path) -> TrainingPrompts:
    """Conversations to answer and openings to complete.

    Args:
        path: JSONL file. Each line is that of a suite, or has `opening`, the first words of a user's message.

    Raises:
        InputError: the file is missing or empty, or a line has another form.
    """
    conversations: list[Sequence[Message]] = []
    openings = []
    for name, value in read_jsonl(path):
        if isinstance(value, dict) and isinstance(value.get("opening"), str):
            openings.append(value["opening"])
        else:
            conversations.append(suite_prompt(name, value).messages)
    return TrainingPrompts(conversations=conversations, openings=openings)
