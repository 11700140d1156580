"""Which of the written conversations a head is trained on, which it is measured on, and which tokens it can draft.

It knows no head and no batches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_export.training.conversation import Conversation
from dovetail_ort_runtime.arrays import TokenArray

_PASSAGE_WORDS: Final = 10
_HELD_OUT_SHARE: Final = 32  # one conversation in this many is held out
_MOST_HELD_OUT: Final = 100  # more of them would make measuring slow


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingText:
    """The conversations of one training.

    Attributes:
        trained: conversations to train on.
        held_out: conversations to measure on.
        num_overlapping: number of conversations that were left out because they share a passage with an evaluation;
            None if there was no evaluation to compare with.
    """

    trained: Sequence[Conversation]
    held_out: Sequence[Conversation]
    num_overlapping: int | None

    @property
    def num_answer_tokens(self) -> int:
        """Number of tokens in the answers to train on."""
        return sum(conversation.answer_length for conversation in self.trained)


def choose_text(
    conversations: Iterable[Conversation],
    num_answer_tokens: int,
    evaluation_texts: Sequence[str] | None,
    decode: Callable[[Sequence[int]], str],
) -> TrainingText:
    """Take as much text as a training asks for, and hold some of it out.

    Args:
        conversations: written text, oldest first; only as much is read as is needed.
        num_answer_tokens: number of tokens that the answers must have together, or all if there are fewer.
        evaluation_texts: texts of an evaluation; a conversation that shares a passage with one is left out. None if
            there are none.
        decode: function from token ids to text.
    """
    found = _enough(conversations, num_answer_tokens)
    kept = found
    num_overlapping = None
    if evaluation_texts is not None:
        kept = _without_overlap(found, evaluation_texts, decode)
        num_overlapping = len(found) - len(kept)
    trained, held_out = split_held_out(kept)
    return TrainingText(trained=trained, held_out=held_out, num_overlapping=num_overlapping)


def _enough(conversations: Iterable[Conversation], num_answer_tokens: int) -> list[Conversation]:
    """The first conversations, until their answers have so many tokens."""
    found: list[Conversation] = []
    num_tokens = 0
    for conversation in conversations:
        found.append(conversation)
        num_tokens += conversation.answer_length
        if num_tokens >= num_answer_tokens:
            break
    return found


def _without_overlap(
    conversations: Sequence[Conversation], evaluation_texts: Sequence[str], decode: Callable[[Sequence[int]], str]
) -> list[Conversation]:
    """The conversations that share no passage with an evaluation."""
    forbidden = {passage for text in evaluation_texts for passage in passages(text)}
    texts = (decode(conversation.token_ids.tolist()) for conversation in conversations)
    return [
        conversation
        for conversation, text in zip(conversations, texts, strict=True)
        if forbidden.isdisjoint(passages(text))
    ]


def passages(text: str) -> Iterator[tuple[str, ...]]:
    """Every ten words in a row, without case and punctuation."""
    words = re.findall(r"\w+", text.lower())
    for start in range(len(words) - _PASSAGE_WORDS + 1):
        yield tuple(words[start : start + _PASSAGE_WORDS])


def split_held_out(conversations: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """Conversations to train on, and one in 32 to measure on: one at least, and not many more than a hundred."""
    of_short_text = min(_HELD_OUT_SHARE, len(conversations) // 2)
    of_long_text = len(conversations) // _MOST_HELD_OUT
    every = max(2, of_short_text, of_long_text)
    trained = [conversation for number, conversation in enumerate(conversations, 1) if number % every]
    return trained, list(conversations[every - 1 :: every])


def draft_vocabulary(
    answers: Sequence[NDArray[np.int32]], eos_token_ids: Sequence[int], *, size: int, total: int
) -> TokenArray:
    """The tokens that a head can draft: the most frequent ones, and those that end an answer.

    Args:
        answers: token ids (n,) int32 of each answer.
        eos_token_ids: ids of the tokens that end an answer; they are always in.
        size: number of tokens that can be drafted; 0 for all.
        total: V, number of tokens in the target's vocabulary.

    Returns:
        (Vd,) int64, ascending. Among tokens that occur equally often, lower ids are preferred.
    """
    if size == 0 or size >= total:
        return np.arange(total)
    counts = np.bincount(np.concatenate(answers), minlength=total)
    counts[list(eos_token_ids)] = counts.max() + 1
    most_frequent = np.argsort(-counts, kind="stable")[:size]
    return np.sort(most_frequent)
