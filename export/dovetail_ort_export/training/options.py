"""What a training can be told: settings, and what the target writes about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dovetail_ort_export.heads.config import check_head
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.text.messages import Message

PRECISIONS: Final = ("auto", "fp32", "bf16")
DEVICES: Final = ("auto", "cpu", "cuda")
LEAST_ANSWER_TOKENS: Final = 8
_LEAST: Final = {
    "max_answer_tokens": LEAST_ANSWER_TOKENS,
    **dict.fromkeys(("num_answer_tokens", "num_parallel", "num_epochs", "batch_size", "unrolled_steps", "threads"), 1),
    **dict.fromkeys(("draft_vocabulary_size", "seed", "feature_weight"), 0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOptions:
    """Settings of one training.

    Attributes:
        num_answer_tokens: how much the target writes, counted in tokens of its answers.
        prompt_share: 0 to 1, how many of the conversations begin with a prompt of the user's, while there are any.
        opening_share: 0 to 1, how many begin with one of the user's openings, if there are any.
        max_answer_tokens: limit of one answer, 8 or more; shorter ones teach nothing.
        num_parallel: conversations written at once.
        fusion: `gating` or `concatenation`.
        num_blocks: 1 to 6 decoder blocks.
        draft_vocabulary_size: how many of the most frequent tokens can be drafted; 0 for all.
        unrolled_steps: how many steps of a chain are trained, all but the first on the head's own features.
        one_step_share: 0 to 1, the part of the training that reads true features only, before chains are unrolled: such
            a step costs less, and the first draft token is the one that all others need.
        feature_weight: weight of the SmoothL1 loss beside the cross-entropy's 1.
        num_epochs: how often the text is read.
        batch_size: conversations a step of the optimiser.
        learning_rate: at its highest; see `optimisers`.
        precision: of the arithmetic; `auto` is bf16 on CUDA and fp32 on the CPU.
        device: `auto` takes CUDA where it is there.
        threads: of the CPU; the usable physical cores by default.
        seed: of writing, initial weights and the order of the text.
    """

    num_answer_tokens: int = 1_000_000
    prompt_share: float = 0.2
    opening_share: float = 0.6
    max_answer_tokens: int = 192
    num_parallel: int = 64
    fusion: str = "gating"
    num_blocks: int = 1
    draft_vocabulary_size: int = 8192
    unrolled_steps: int = 3
    one_step_share: float = 0.6
    feature_weight: float = 1.0
    num_epochs: int = 3
    batch_size: int = 8
    learning_rate: float = 4e-3
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:  # NaN is neither above nor below
                raise InputError(f"{name} must be {least} or more, got {value}")
        for name in ("prompt_share", "opening_share", "one_step_share"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise InputError(f"{name} must be between 0 and 1, got {value}")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning_rate must be between 0 and 1, got {self.learning_rate}")
        check_head(self.fusion, self.num_blocks)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("device", self.device, DEVICES)


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPrompts:
    """Subjects of the user's.

    Attributes:
        conversations: each is answered once.
        openings: first words of a user's turn; the model goes on with the turn, each time in another way, and answers.
    """

    conversations: Sequence[Sequence[Message]] = ()
    openings: Sequence[str] = ()
