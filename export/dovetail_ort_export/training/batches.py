"""The text that a head is trained on: which conversations, which tokens of them, in which batches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dovetail_ort_export.training.text_writer import Conversation
from dovetail_ort_runtime.arrays import TokenArray

# Batches are cut from this many conversations sorted by length, so that little of a batch is padding.
_SORTED_BATCHES: Final = 32
_PASSAGE_WORDS: Final = 10


def passages(text: str) -> Iterator[tuple[str, ...]]:
    """Every ten words in a row, without case and punctuation."""
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[start:] for start in range(_PASSAGE_WORDS)), strict=False)


def draft_vocabulary(
    answers: Sequence[NDArray[np.int32]], eos_token_ids: Sequence[int], *, size: int, total: int
) -> TokenArray:
    """The `size` most frequent of `total` tokens in some answers (n,), all if 0; the end tokens in any case.

    Returns:
        (Vd,) int64, ascending. Tokens that occur equally often enter by the lower id.
    """
    if size == 0 or size >= total:
        return np.arange(total)
    counts = np.bincount(np.concatenate(answers), minlength=total)
    counts[list(eos_token_ids)] = counts.max() + 1
    return np.sort(np.argsort(-counts, kind="stable")[:size])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextBatch:
    """B conversations side by side, padded to the longest: what is known at position t, and what it is to predict.

    Attributes:
        features: (B, T, E) float32, f_t.
        next_token_ids: (B, T) int64, token t + 1.
        wanted_features: (B, T, E) float32, f_{t+1}.
        wanted_token_ids: (B, T) int64, token t + 2, the target's own choice wherever `in_answer`.
        in_answer: (B, T) bool, whether token t + 2 is one that a drafter would be asked for.
        is_learned: (B, T) bool, whether it is one to learn from: those of the prompt are as well, as the target's
            distribution over them is known too.
    """

    features: Tensor
    next_token_ids: Tensor
    wanted_features: Tensor
    wanted_token_ids: Tensor
    in_answer: Tensor
    is_learned: Tensor

    def to(self, device: torch.device) -> TextBatch:
        """The same on another device."""
        return TextBatch(**{name: getattr(self, name).to(device) for name in self.__slots__})


def split_held_out(conversations: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """Conversations to train on, and one in 32 to measure on, two to some hundred."""
    every = max(2, min(32, len(conversations) // 2), len(conversations) // 100)
    trained = [item for number, item in enumerate(conversations, 1) if number % every]
    return trained, list(conversations[every - 1 :: every])


def batch_indices(lengths: Sequence[int], batch_size: int, seed: int) -> list[list[int]]:
    """Which conversations form which batch: similar lengths together, batches in random order."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(lengths)).tolist()
    found: list[list[int]] = []
    for start in range(0, len(order), batch_size * _SORTED_BATCHES):
        portion = sorted(order[start : start + batch_size * _SORTED_BATCHES], key=lengths.__getitem__)
        found += [portion[first : first + batch_size] for first in range(0, len(portion), batch_size)]
    return [found[index] for index in generator.permutation(len(found))]


def shared_length(conversations: Sequence[Conversation]) -> int:
    """How many tokens all of some conversations begin with: what the template puts before the user's words."""
    shared = conversations[0].token_ids
    for item in conversations:
        shared = shared[: len(item.token_ids)]
        shared = shared[np.logical_and.accumulate(shared == item.token_ids[: len(shared)])]
    return len(shared)


def collate(conversations: Sequence[Conversation], num_shared: int = 0) -> TextBatch:
    """One batch of some conversations, nothing of whose first `num_shared` tokens is there to learn."""
    features = _padded(item.hidden_states.astype(np.float32) for item in conversations)
    token_ids = _padded(item.token_ids[1:].astype(np.int64) for item in conversations)
    places = [np.arange(len(item.hidden_states) - 1) for item in conversations]
    return TextBatch(
        features=features[:, :-1],
        next_token_ids=token_ids[:, :-1],
        wanted_features=features[:, 1:],
        wanted_token_ids=token_ids[:, 1:],
        # The target itself gives the answer's first token, behind the last one of the prompt.
        in_answer=_padded(place >= item.prompt_length - 1 for place, item in zip(places, conversations, strict=True)),
        is_learned=_padded(place >= num_shared - 2 for place in places),
    )


def _padded(rows: Iterable[NDArray[Any]]) -> Tensor:
    """Arrays side by side, zeros behind the shorter ones."""
    return pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
