"""Let a target write many conversations at a time. It knows no files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_export.training.batched_target import BatchedTarget
from dovetail_ort_export.training.chat_turns import ChatTurns, TokenIds
from dovetail_ort_export.training.conversation import Conversation
from dovetail_ort_export.training.loops import loop_start
from dovetail_ort_export.training.options import LEAST_ANSWER_TOKENS, TrainingOptions
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.engine.kv_cache import num_reusable
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.options import SamplingOptions
from dovetail_ort_runtime.sampler import Sampler
from dovetail_ort_runtime.text.tokenizer import Tokenizer

MAX_QUESTION_TOKENS: Final = 96
# The least likely twentieth of a small model's samples is mostly noise. A draw among fewer tokens is also cheaper.
_QUESTION_TOP_P: Final = 0.95
_QUESTION_TOP_K: Final = 1000
# After so many conversations in a row that are too short or were written before, the target has nothing new to say.
_MOST_IN_VAIN: Final = 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class Subjects:
    """What conversations are about, as token ids.

    Attributes:
        prompts: the user's prompts, up to the answers; each is taken once.
        openings: the user's openings, which the target completes.
        seen: prompts and answers that must not come again; the writer adds those that it writes.
    """

    prompts: Iterable[TokenIds]
    openings: Sequence[TokenIds]
    seen: set[tuple[int, ...]]


class TextWriter:
    """Keeps every sequence of a target busy: a question, its answer, the next conversation.

    A question comes from one of three places. The target samples it from the opening of the template's user turn
    (Magpie, arXiv 2406.08464), or from some first words that the user gives, or it is a whole prompt of the user's.
    The answer is greedy. An answer that falls into a loop ends before the loop's second repetition.

    Args:
        target: target that writes.
        turns: the chat template as token ids.
        tokenizer: tokenizer of the target.
        options: settings of the training, with a seed that no earlier text was written with.
        eos_token_ids: ids of the tokens that end an answer, one or more.
        subjects: what the conversations are about.
    """

    def __init__(
        self,
        target: BatchedTarget,
        turns: ChatTurns,
        tokenizer: Tokenizer,
        options: TrainingOptions,
        *,
        eos_token_ids: Sequence[int],
        subjects: Subjects,
    ) -> None:
        self._target = target
        self._turns = turns
        self._tokenizer = tokenizer
        self._options = options
        self._ends = frozenset(eos_token_ids)
        self._prompts = iter(subjects.prompts)
        self._openings = subjects.openings
        self._seen = subjects.seen
        self._generator = np.random.default_rng(options.seed)
        self._sampler = Sampler(
            SamplingOptions(temperature=1.0, top_k=_QUESTION_TOP_K, top_p=_QUESTION_TOP_P, seed=options.seed)
        )
        self._num_in_vain = 0
        self._start = turns.opening or [eos_token_ids[0]]

    def conversations(self) -> Iterator[Conversation]:
        """Conversations without end, in the order in which they are finished.

        Raises:
            InputError: the target writes only what is too short or what it wrote before.
        """
        sequences = [self._new_sequence() for _ in range(self._target.num_sequences)]
        for sequence in sequences:
            self._begin(sequence)
        while True:
            token_ids = [sequence.unread(self._target.rows_a_sequence) for sequence in sequences]
            positions = np.array([sequence.num_read for sequence in sequences])
            logits, hidden_states = self._target.read(token_ids, positions)
            for sequence, scores, states in zip(sequences, logits, hidden_states, strict=True):
                sequence.keep(states)
                if sequence.has_unread:
                    continue
                if sequence.prompt_length is None:  # a question
                    self._extend_question(sequence, self._sampler.choose(scores))
                    continue
                if self._extend_answer(sequence, sequence.prompt_length, int(scores.argmax())):
                    continue
                conversation = sequence.conversation(sequence.prompt_length)
                if self._is_worth_keeping(conversation):
                    self._num_in_vain = 0
                    yield conversation
                self._begin(sequence)

    def _new_sequence(self) -> _GrowingSequence:
        return _GrowingSequence(np.empty((self._target.capacity, self._target.hidden_size), dtype=np.float16))

    def _begin(self, sequence: _GrowingSequence) -> None:
        """Begin the next conversation."""
        self._num_in_vain += 1
        if self._num_in_vain > _MOST_IN_VAIN:
            raise InputError(
                f"the target must write text that is new, got {_MOST_IN_VAIN} conversations in a row without any; "
                "ask for fewer answer tokens or give more prompts"
            )
        share = self._generator.random()
        if share < self._options.prompt_share:
            prompt = self._next_prompt()
            if prompt is not None:
                sequence.restart(prompt, len(prompt))
                return
        elif self._openings and share < self._options.prompt_share + self._options.opening_share:
            number = int(self._generator.integers(len(self._openings)))
            sequence.restart(self._openings[number])
            return
        sequence.restart(self._start)

    def _next_prompt(self) -> TokenIds | None:
        """The user's next prompt that can be answered, or None if there is none left."""
        for prompt in self._prompts:
            if self._is_answerable(prompt):
                return prompt
        return None

    def _extend_question(self, sequence: _GrowingSequence, token_id: int) -> None:
        """Add a token to a question, and turn to its answer where the question ends."""
        question = sequence.token_ids[len(self._start) :]
        if token_id not in self._ends:
            question.append(token_id)
            if len(question) < MAX_QUESTION_TOKENS:
                sequence.token_ids.append(token_id)
                return
        prompt = self._prompt(question) if question else None
        if prompt is not None and self._is_answerable(prompt):
            sequence.restart(prompt, len(prompt))
        else:
            self._begin(sequence)

    def _prompt(self, question: TokenIds) -> TokenIds:
        """The token ids before the answer to a question."""
        if not self._turns.opening:
            return self._start + question
        return self._turns.question(self._tokenizer.decode(question))

    def _extend_answer(self, sequence: _GrowingSequence, prompt_length: int, token_id: int) -> bool:
        """Add a token to an answer, and return whether the answer goes on."""
        sequence.token_ids.append(token_id)
        answer = sequence.token_ids[prompt_length:]
        loop = loop_start(answer)
        if loop is not None:
            del sequence.token_ids[prompt_length + loop :]
            return False
        has_room = len(sequence.token_ids) < self._target.capacity and len(answer) < self._options.max_answer_tokens
        return has_room and token_id not in self._ends

    def _is_answerable(self, prompt: TokenIds) -> bool:
        """Whether there is room for an answer, and the prompt is new."""
        return len(prompt) + LEAST_ANSWER_TOKENS < self._target.capacity and self._is_new(prompt)

    def _is_worth_keeping(self, conversation: Conversation) -> bool:
        """Whether the answer is long enough and new."""
        return conversation.answer_length >= LEAST_ANSWER_TOKENS and self._is_new(conversation.answer.tolist())

    def _is_new(self, token_ids: TokenIds) -> bool:
        """Whether a prompt or an answer is seen for the first time; it is then noted as seen."""
        key = tuple(token_ids)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


@dataclass(slots=True)
class _GrowingSequence:
    """One conversation on its way through a target.

    Attributes:
        hidden_states: (capacity, E) float16, hidden states of the tokens that were read.
        token_ids: tokens that were read, followed by tokens that are still to be read.
        num_read: number of tokens that were read.
        prompt_length: number of tokens before the answer; None while the question is being written.
    """

    hidden_states: NDArray[np.float16]
    token_ids: TokenIds = field(default_factory=list)
    num_read: int = 0
    prompt_length: int | None = None

    @property
    def has_unread(self) -> bool:
        """Whether there is a token that the target has not read."""
        return self.num_read < len(self.token_ids)

    def unread(self, most: int) -> TokenIds:
        """The next tokens to read, `most` at most."""
        return self.token_ids[self.num_read : self.num_read + most]

    def restart(self, token_ids: TokenIds, prompt_length: int | None = None) -> None:
        """Go on with other tokens.

        Tokens that were read already are not read again, except for the last one, whose logits are needed.
        """
        self.num_read = num_reusable(self.token_ids[: self.num_read], token_ids)
        self.token_ids = list(token_ids)
        self.prompt_length = prompt_length

    def keep(self, hidden_states: FloatArray) -> None:
        """Note the hidden states of the next tokens, (n, E)."""
        end = self.num_read + len(hidden_states)
        self.hidden_states[self.num_read : end] = hidden_states
        self.num_read = end

    def conversation(self, prompt_length: int) -> Conversation:
        """A copy of the finished conversation."""
        return Conversation(
            token_ids=np.array(self.token_ids, dtype=np.int32),
            prompt_length=prompt_length,
            hidden_states=self.hidden_states[: len(self.token_ids) - 1].copy(),
        )
