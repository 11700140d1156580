"""Settings and inputs of a training, and the prompts of its text. It needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dovetail_ort_export.heads.config import check_head
from dovetail_ort_runtime.checks import must_be, must_be_at_least, must_be_between, must_be_one_of
from dovetail_ort_runtime.engine.devices import DEVICES
from dovetail_ort_runtime.text.messages import Message

PRECISIONS: Final = ("auto", "fp32", "bf16")
LEAST_ANSWER_TOKENS: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOptions:
    """Settings of one training.

    Attributes:
        num_answer_tokens: number of tokens that the target's answers have together, 1 or more.
        prompt_share: share of the conversations that begin with one of the user's prompts, 0 to 1, until all are used.
        opening_share: share of the conversations that begin with one of the user's openings if there are any, 0 to 1.
        max_answer_tokens: largest number of tokens of an answer, 8 or more; a head learns nothing from shorter answers.
        num_parallel: number of conversations that are written at once, 1 or more.
        fusion: how the head mixes feature and embedding, `gating` or `concatenation`.
        num_blocks: number of the head's decoder blocks, 1 to 6.
        draft_vocabulary_size: number of tokens that can be drafted, the most frequent ones; 0 for all.
        unrolled_steps: number of steps of a chain that are trained, 1 or more. The first step reads the target's
            features; all later steps read the features that the head predicted.
        one_step_share: share of the training steps that train only the first step of chains, 0 to 1. They come before
            all others: they cost less, and every draft token needs the first step.
        feature_weight: weight of the features' SmoothL1 loss, 0 or more; the weight of the cross-entropy is 1.
        num_epochs: number of times that the text is read, 1 or more.
        batch_size: number of conversations in one step of the optimiser, 1 or more.
        learning_rate: largest learning rate of the schedule, above 0 and below 1. It rises linearly over the first 3 %
            of the steps, and then falls linearly to zero.
        precision: number format of the arithmetic: `fp32`, `bf16`, or `auto`, which is bf16 on CUDA and fp32 on the
            CPU.
        device: where the head is trained: `cpu`, `cuda`, or `auto`, which takes CUDA where a GPU is there.
        threads: number of CPU threads, 1 or more; the usable physical cores if None.
        seed: seed of the writing, of the initial weights and of the order of the text, 0 or more.
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
        must_be_at_least("num_answer_tokens", self.num_answer_tokens, 1)
        must_be_between("prompt_share", self.prompt_share, 0, 1)
        must_be_between("opening_share", self.opening_share, 0, 1)
        must_be_at_least("max_answer_tokens", self.max_answer_tokens, LEAST_ANSWER_TOKENS)
        must_be_at_least("num_parallel", self.num_parallel, 1)
        check_head(self.fusion, self.num_blocks)
        must_be_at_least("draft_vocabulary_size", self.draft_vocabulary_size, 0)
        must_be_at_least("unrolled_steps", self.unrolled_steps, 1)
        must_be_between("one_step_share", self.one_step_share, 0, 1)
        must_be_at_least("feature_weight", self.feature_weight, 0)
        must_be_at_least("num_epochs", self.num_epochs, 1)
        must_be_at_least("batch_size", self.batch_size, 1)
        must_be("learning_rate", "above 0 and below 1", self.learning_rate, holds=0 < self.learning_rate < 1)
        must_be_one_of("precision", self.precision, PRECISIONS)
        must_be_one_of("device", self.device, DEVICES)
        must_be_at_least("threads", self.threads, 1)
        must_be_at_least("seed", self.seed, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPrompts:
    """Prompts from the user, about which the target writes.

    Attributes:
        conversations: conversations that end with a user's turn; each is answered once.
        openings: first words of a user's turn. The target completes the turn, each time in another way, and answers it.
    """

    conversations: Sequence[Sequence[Message]] = ()
    openings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingInputs:
    """Further inputs of a training, besides the bundle.

    Attributes:
        text: directory of the text that the target writes, which several trainings can share; None takes the directory
            `text` inside the head's directory.
        source: model that the bundle was exported from: a directory, a `.gguf` file, or a name on the hub. torch then
            writes the text with it, on the device of the training. If None, the bundle's graph writes the text on the
            CPU.
        start: directory of a trained head from which the training starts, with the same sizes and draft vocabulary;
            None starts with a new head.
        prompts: prompts from the user; for all other conversations the target also writes the questions.
        evaluation_texts: texts of an evaluation; conversations that share ten words in a row with one of them are left
            out. None if there is no evaluation.
    """

    text: Path | None = None
    source: str | None = None
    start: Path | None = None
    prompts: TrainingPrompts = TrainingPrompts()
    evaluation_texts: Sequence[str] | None = None
