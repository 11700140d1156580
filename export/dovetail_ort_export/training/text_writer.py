"""Conversations that a bundle's target writes itself, many at a time, with the hidden states it had on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_export.training.chat_turns import TokenIds, Turns
from dovetail_ort_export.training.options import LEAST_ANSWER_TOKENS, TrainingOptions
from dovetail_ort_export.training.slotted_target import SlottedTarget
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.options import SamplingOptions
from dovetail_ort_runtime.sampler import Sampler
from dovetail_ort_runtime.text.tokenizer import Tokenizer

MAX_QUESTION_TOKENS: Final = 96
# Of what a small model samples freely, the last twentieth is mostly noise; a draw among fewer tokens is cheaper.
_QUESTION_TOP_P: Final = 0.95
_QUESTION_TOP_K: Final = 1000
# So many conversations in a row that are too short or said before: the target has nothing new to say.
_MOST_IN_VAIN: Final = 5000
_LONGEST_LOOP: Final = 32
_LEAST_ROUNDS: Final = 3
_LEAST_LOOPING: Final = 24


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Conversation:
    """A prompt and the target's greedy answer.

    Attributes:
        token_ids: (T,) int32, prompt and answer; the last one was not read by the target.
        prompt_length: tokens before the answer.
        hidden_states: (T - 1, E) float16, after the final norm.
    """

    token_ids: NDArray[np.int32]
    prompt_length: int
    hidden_states: NDArray[np.float16]

    @property
    def answer_length(self) -> int:
        """Tokens of the answer."""
        return len(self.token_ids) - self.prompt_length


class TextWriter:
    """Keeps every slot of a batched target busy: question, answer, next conversation.

    A question is sampled from the opening of the template's user turn (Magpie, arXiv 2406.08464), from there and some
    words of the user's, or is the user's own; the answer is greedy. An answer that goes round in circles ends where its
    second round would begin.

    Args:
        options: of the training, with a seed that no earlier text was written with.
        prompts: token ids up to where answers begin, given by the user; each is taken when its turn comes.
        openings: token ids up to where the model goes on with the user's turn.
        seen: prompts and answers that are not to come again; those of this run are added.
    """

    def __init__(
        self,
        target: SlottedTarget,
        turns: Turns,
        tokenizer: Tokenizer,
        options: TrainingOptions,
        *,
        eos_token_ids: Sequence[int],
        prompts: Iterable[TokenIds],
        openings: Sequence[TokenIds],
        seen: set[tuple[int, ...]],
    ) -> None:
        self._target, self._turns, self._tokenizer, self._options = target, turns, tokenizer, options
        self._ends = frozenset(eos_token_ids)
        self._prompts, self._openings, self._seen = iter(prompts), openings, seen
        self._generator = np.random.default_rng(options.seed)
        self._sampler = Sampler(
            SamplingOptions(temperature=1.0, top_k=_QUESTION_TOP_K, top_p=_QUESTION_TOP_P, seed=options.seed)
        )
        self._in_vain = 0
        self._start = turns.opening or [eos_token_ids[0]]

    def conversations(self) -> Iterator[Conversation]:
        """Conversations without end, in the order in which they are finished.

        Raises:
            InputError: the target goes on to write what is too short, or what it wrote before.
        """
        target = self._target
        size = (target.capacity, target.hidden_size)
        slots = [_Slot(np.empty(size, dtype=np.float16)) for _ in range(target.num_slots)]
        for slot in slots:
            self._begin(slot)
        while True:
            token_ids = [slot.token_ids[slot.num_read : slot.num_read + target.rows_a_slot] for slot in slots]
            positions = np.array([slot.num_read for slot in slots])
            for slot, logits, hidden_states in zip(slots, *target.read(token_ids, positions), strict=True):
                slot.keep(hidden_states)
                if slot.num_read < len(slot.token_ids):
                    continue
                if slot.prompt_length is None:
                    self._extend_question(slot, self._sampler.choose(logits))
                elif self._ends_answer(slot, slot.prompt_length, int(logits.argmax())):
                    answer = tuple(slot.token_ids[slot.prompt_length :])
                    if len(answer) >= LEAST_ANSWER_TOKENS and self._is_new(answer):
                        self._in_vain = 0
                        yield slot.conversation(slot.prompt_length)
                    self._begin(slot)

    def _begin(self, slot: _Slot) -> None:
        self._in_vain += 1
        if self._in_vain > _MOST_IN_VAIN:
            raise InputError(
                f"the target must write text that is new, got {_MOST_IN_VAIN} conversations in a row without any; "
                "ask for fewer answer tokens or give more prompts"
            )
        kind, options = self._generator.random(), self._options
        start = self._start
        if kind < options.prompt_share:
            if (prompt := next(filter(self._is_answerable, self._prompts), None)) is not None:
                slot.restart(prompt, len(prompt))
                return
        elif self._openings and kind < options.prompt_share + options.opening_share:
            start = self._openings[int(self._generator.integers(len(self._openings)))]
        slot.restart(start)

    def _extend_question(self, slot: _Slot, token_id: int) -> None:
        question = slot.token_ids[len(self._start) :]
        if token_id not in self._ends:
            question.append(token_id)
            if len(question) < MAX_QUESTION_TOKENS:
                slot.token_ids.append(token_id)
                return
        if question and self._is_answerable(prompt := self._prompt(question)):
            slot.restart(prompt, len(prompt))
        else:
            self._begin(slot)

    def _prompt(self, question: TokenIds) -> TokenIds:
        if not self._turns.opening:
            return self._start + question
        return self._turns.question(self._tokenizer.decode(question))

    def _is_answerable(self, prompt: TokenIds) -> bool:
        return len(prompt) + LEAST_ANSWER_TOKENS < self._target.capacity and self._is_new(tuple(prompt))

    def _is_new(self, token_ids: tuple[int, ...]) -> bool:
        if token_ids in self._seen:
            return False
        self._seen.add(token_ids)
        return True

    def _ends_answer(self, slot: _Slot, prompt_length: int, token_id: int) -> bool:
        """Extend an answer; whether it ends there."""
        slot.token_ids.append(token_id)
        answer = slot.token_ids[prompt_length:]
        if (loop := loop_start(answer)) is not None:
            del slot.token_ids[prompt_length + loop :]
            return True
        has_room = len(slot.token_ids) < self._target.capacity and len(answer) < self._options.max_answer_tokens
        return token_id in self._ends or not has_room


@dataclass(slots=True)
class _Slot:
    """One conversation on its way through a batched target.

    Attributes:
        hidden_states: (capacity, E) float16, of the tokens read.
        token_ids: those read and those to be read.
        num_read: how many were read.
        prompt_length: of the conversation, None while the question is being written.
    """

    hidden_states: NDArray[np.float16]
    token_ids: TokenIds = field(default_factory=list)
    num_read: int = 0
    prompt_length: int | None = None

    def restart(self, token_ids: TokenIds, prompt_length: int | None = None) -> None:
        """Read `token_ids` from where they differ from what was read; the last one is always read again."""
        pairs = zip(token_ids[:-1], self.token_ids[: self.num_read], strict=False)
        self.num_read = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.token_ids = list(token_ids)
        self.prompt_length = prompt_length

    def keep(self, hidden_states: FloatArray) -> None:
        """Note what the target gave for the next tokens, (n, E)."""
        end = self.num_read + len(hidden_states)
        self.hidden_states[self.num_read : end] = hidden_states
        self.num_read = end

    def conversation(self, prompt_length: int) -> Conversation:
        """A copy of what was written."""
        return Conversation(
            token_ids=np.array(self.token_ids, dtype=np.int32),
            prompt_length=prompt_length,
            hidden_states=self.hidden_states[: len(self.token_ids) - 1].copy(),
        )


def loop_start(token_ids: Sequence[int]) -> int | None:
    """Where the second round of a loop begins, if the text ends in three equal rounds or more; else None.

    A loop has a period of 1 to 32 tokens and covers 24 tokens at least, so that a rule of dashes or a short refrain is
    none.

    Example, shortened: of "a b c d c d c d" the loop is "c d", its second round begins at 4.
    """
    for period in range(1, _LONGEST_LOOP + 1):
        covered = period + _repeated(token_ids, period)
        if covered >= max(_LEAST_ROUNDS * period, _LEAST_LOOPING):
            return len(token_ids) - covered + period
    return None


def _repeated(token_ids: Sequence[int], period: int) -> int:
    """How many tokens at the end equal the one a period before."""
    found = 0
    while found < len(token_ids) - period and token_ids[-1 - found] == token_ids[-1 - found - period]:
        found += 1
    return found
