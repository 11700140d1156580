"""Text on which a head is measured: prompts of several lengths, and the target's own greedy answers.

It knows no head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dovetail_ort_export.training.loops import loop_start
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import DovetailError, InputError
from dovetail_ort_runtime.text.messages import Message, Prompt
from dovetail_ort_runtime.text.prompt_reader import PromptReader

SHORT_PROMPTS: Final = "short prompts"
_QUESTIONS: Final = (
    "Explain how a bicycle stays upright.",
    "Write a Python function that merges two sorted lists.",
    "A train travels 180 km in 2.5 hours. How fast is it on average? Show the steps.",
    "Write a short story about a lighthouse keeper and a storm.",
    "Name three causes of the French Revolution and explain each in two sentences.",
    "Translate into German and into French: The library opens at nine and closes at six.",
)
# For a target without a chat template.
_BEGINNINGS: Final = (
    "The history of paper begins",
    "def merge_sorted(first, second):\n",
    "The speed of a train that travels 180 km in 2.5 hours is",
    "Once upon a time, a lighthouse keeper",
    "The French Revolution had three causes. The first",
    "The library opens at nine and",
)
_NO_THINKING: Final[Mapping[str, Any]] = {"enable_thinking": False}
_WITHOUT_THINKING: Final = "without thinking"
_ANSWER_TOKENS: Final = 64
_CONTEXTS: Final = (200, 4000)
_LEAST_TOKENS: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeText:
    """A prompt and the target's greedy answer.

    Attributes:
        name: what kind of text it is; several texts may have the same name.
        token_ids: (T,) int64, prompt and answer.
        prompt_length: number of tokens before the answer.
        features: (T - 1, F) float32, the target's features of all tokens but the last.
    """

    name: str
    token_ids: TokenArray
    prompt_length: int
    features: FloatArray

    @property
    def answer(self) -> TokenArray:
        """Token ids of the answer."""
        return self.token_ids[self.prompt_length :]


def write_probe_texts(bundle: Bundle, target: Target) -> tuple[ProbeText, ...]:
    """Let a target answer prompts: short ones, the same without thinking where its template knows that, longer ones.

    A longer prompt is made of the answers to the short ones. The longest has as many tokens as the target's context
    allows, at most 4,000.

    Args:
        bundle: bundle of the target.
        target: the target, opened with the taps whose features are wanted, or without.

    Raises:
        InputError: the target writes too little to measure anything on.
    """
    writer = _Writer(bundle, target)
    texts = [text for prompt in writer.short_prompts() for text in writer.answer(SHORT_PROMPTS, prompt)]
    num_tokens = sum(len(text.answer) for text in texts)
    if num_tokens < _LEAST_TOKENS:
        raise InputError(
            f"the target answers {len(_QUESTIONS)} prompts with {num_tokens} tokens in all, too few to measure a head "
            "on; train one for it with: dovetail-ort train"
        )
    texts += writer.without_thinking()
    for length in _context_lengths(target.cache.capacity):
        texts += writer.answer(f"{length} tokens of context", writer.long_prompt(texts, length))
    return tuple(texts)


class _Writer:
    """Prompts for a target, and its answers."""

    def __init__(self, bundle: Bundle, target: Target) -> None:
        self._target = target
        self._reader = PromptReader(bundle.tokenizer(), bundle.chat_template(), target.vocabulary_size)
        self._ends = frozenset(bundle.manifest.generation.eos_token_ids)
        self._has_template = self._renders(_QUESTIONS[0])

    def short_prompts(self) -> tuple[Prompt, ...]:
        if self._has_template:
            return tuple(map(_conversation, _QUESTIONS))
        return _BEGINNINGS

    def without_thinking(self) -> Iterator[ProbeText]:
        """Answers without thinking, if the template has a switch for it."""
        if not self._has_template:
            return
        prompt = _conversation(_QUESTIONS[0])
        if self._reader.token_ids(prompt, _NO_THINKING) == self._reader.token_ids(prompt):
            return
        for question in _QUESTIONS:
            yield from self.answer(_WITHOUT_THINKING, self._reader.token_ids(_conversation(question), _NO_THINKING))

    def long_prompt(self, texts: Sequence[ProbeText], length: int) -> list[int]:
        """Token ids of a prompt of about `length` tokens."""
        words = np.resize(np.concatenate([text.answer for text in texts]), length)
        text = self._reader.tokenizer.decode(words.tolist())
        prompt: Prompt = _conversation(text) if self._has_template else text
        token_ids = self._reader.token_ids(prompt)
        # The template adds tokens. Its own stand at both ends of the prompt, so the middle is cut.
        surplus = max(len(token_ids) - length, 0)
        middle = length // 2
        return token_ids[:middle] + token_ids[middle + surplus :]

    def answer(self, name: str, prompt: Prompt) -> Iterator[ProbeText]:
        """The prompt with its answer, up to a loop in it; nothing if the answer is empty or the prompt too long."""
        token_ids = self._reader.token_ids(prompt)
        if len(token_ids) + _ANSWER_TOKENS > self._target.cache.capacity:
            return
        answer, features = self._read_and_answer(token_ids)
        answer = answer[: loop_start(answer)]
        num_tokens = len(token_ids) + len(answer)
        if len(answer) > 1:
            yield ProbeText(
                name=name,
                token_ids=np.array([*token_ids, *answer], dtype=np.int64),
                prompt_length=len(token_ids),
                features=features[: num_tokens - 1],
            )

    def _read_and_answer(self, token_ids: Sequence[int]) -> tuple[list[int], FloatArray]:
        """The greedy answer, and the features of all tokens that were read."""
        self._target.cache.rewind(0)
        features: list[FloatArray] = []
        answer: list[int] = []
        following = np.array(token_ids, dtype=np.int64)
        while True:
            for _, output in self._target.chunks(following, num_scored=1):
                features.append(output.features.copy())
                token_id = int(output.logits[-1].argmax())
            answer.append(token_id)
            if token_id in self._ends or len(answer) == _ANSWER_TOKENS:
                return answer, np.concatenate(features)
            following = np.array([token_id], dtype=np.int64)

    def _renders(self, question: str) -> bool:
        if self._reader.template is None:
            return False
        try:
            self._reader.token_ids(_conversation(question))
        except DovetailError:  # a template that wants more than a user's message
            return False
        return True


def _conversation(question: str) -> list[Message]:
    return [{"role": "user", "content": question}]


def _context_lengths(max_context: int) -> tuple[int, ...]:
    """Lengths of longer prompts, shortened to what the context holds beside an answer."""
    room = max_context - _ANSWER_TOKENS
    return tuple(dict.fromkeys(min(length, room) for length in _CONTEXTS if min(length, room) > _ANSWER_TOKENS))
