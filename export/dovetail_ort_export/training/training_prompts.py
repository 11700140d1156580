"""What a user can give a target to write about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dovetail_ort_runtime.chat_template import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPrompts:
    """Subjects of the user's.

    Attributes:
        conversations: each is answered once.
        openings: first words of a user's turn; the model goes on with the turn, each time in another way, and answers.
    """

    conversations: Sequence[Sequence[Message]] = ()
    openings: Sequence[str] = ()
