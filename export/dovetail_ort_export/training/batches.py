"""Conversations as batches: which ones are read together, and what each position of them must predict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dovetail_ort_export.training.conversation import Conversation

# This many batches are cut from one portion of conversations sorted by length, so that little of a batch is padding.
_SORTED_BATCHES: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextBatch:
    """B conversations side by side, padded to the longest.

    Every position t knows the target's feature f_t and the token after it, and predicts what comes next.

    Attributes:
        features: (B, T, E) float32, f_t.
        next_token_ids: (B, T) int64, token t + 1.
        wanted_features: (B, T, E) float32, f_{t+1}.
        wanted_token_ids: (B, T) int64, token t + 2; where `in_answer` is true, the target chose it itself.
        in_answer: (B, T) bool, whether token t + 2 belongs to the answer, where a drafter would be asked for it.
        is_learned: (B, T) bool, whether the head learns from token t + 2. It learns from the tokens of prompts, too, as
            the target's distribution over them is known.
    """

    features: Tensor
    next_token_ids: Tensor
    wanted_features: Tensor
    wanted_token_ids: Tensor
    in_answer: Tensor
    is_learned: Tensor

    def to(self, device: torch.device) -> TextBatch:
        """The same batch on another device."""
        return TextBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def batch_indices(lengths: Sequence[int], batch_size: int, seed: int) -> list[list[int]]:
    """Which conversations form which batch: similar lengths together, the batches in random order.

    Args:
        lengths: number of tokens of each conversation.
        batch_size: largest number of conversations in a batch.
        seed: seed of the order.

    Returns:
        The indices of each batch's conversations; every index occurs once.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(lengths)).tolist()
    portion_size = batch_size * _SORTED_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), portion_size):
        portion = sorted(order[start : start + portion_size], key=lengths.__getitem__)
        batches += [portion[first : first + batch_size] for first in range(0, len(portion), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def shared_length(conversations: Sequence[Conversation]) -> int:
    """Number of tokens that all conversations share at the start: those before the user's words in the template."""
    shared = conversations[0].token_ids
    for conversation in conversations:
        shared = shared[: len(conversation.token_ids)]
        is_equal = shared == conversation.token_ids[: len(shared)]
        shared = shared[np.logical_and.accumulate(is_equal)]
    return len(shared)


def collate(conversations: Sequence[Conversation], num_shared: int = 0) -> TextBatch:
    """One batch of conversations.

    Args:
        conversations: conversations of the batch, one or more.
        num_shared: number of tokens at the start of each conversation that the head does not learn from.
    """
    features = _padded(conversation.hidden_states.astype(np.float32) for conversation in conversations)
    token_ids = _padded(conversation.token_ids[1:].astype(np.int64) for conversation in conversations)
    places = [np.arange(len(conversation.hidden_states) - 1) for conversation in conversations]
    # The target itself chose the first token of the answer, after the last token of the prompt.
    first_drafted = [conversation.prompt_length - 1 for conversation in conversations]
    return TextBatch(
        features=features[:, :-1],
        next_token_ids=token_ids[:, :-1],
        wanted_features=features[:, 1:],
        wanted_token_ids=token_ids[:, 1:],
        in_answer=_padded(place >= first for place, first in zip(places, first_drafted, strict=True)),
        is_learned=_padded(place >= num_shared - 2 for place in places),
    )


def _padded(rows: Iterable[NDArray[Any]]) -> Tensor:
    """Arrays side by side, with zeros after the shorter ones."""
    return pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
