"""Text on which a head is measured: prompts of several lengths, and the target's own greedy answers.

It knows no head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dovetail_ort_export.training.loops import loop_start
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import DovetailError, InputError
from dovetail_ort_runtime.loading.load_options import NO_DRAFTER, LoadOptions
from dovetail_ort_runtime.model import Model
from dovetail_ort_runtime.options import GenerationOptions, SamplingOptions
from dovetail_ort_runtime.text.messages import Prompt

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
    """

    name: str
    token_ids: TokenArray
    prompt_length: int

    @property
    def answer_length(self) -> int:
        """Number of tokens in the answer."""
        return len(self.token_ids) - self.prompt_length


def write_probe_texts(bundle: Bundle) -> tuple[ProbeText, ...]:
    """Let a target answer prompts: short ones, the same without thinking where its template knows that, longer ones.

    A longer prompt is made of the answers to the short ones. The longest has as many tokens as the target's context
    allows, at most 4,000.

    Args:
        bundle: bundle of the target.

    Raises:
        InputError: the target writes too little to measure anything on.
    """
    with Model(bundle, LoadOptions(drafter=NO_DRAFTER)) as model:
        writer = _Writer(model)
        texts = [text for prompt in writer.short_prompts() for text in writer.answer(SHORT_PROMPTS, prompt)]
        num_tokens = sum(text.answer_length for text in texts)
        if num_tokens < _LEAST_TOKENS:
            raise InputError(
                f"the target answers {len(_QUESTIONS)} prompts with {num_tokens} tokens in all, too few to measure a "
                "head on; train one for it with: dovetail-ort train"
            )
        texts += writer.without_thinking()
        for length in _context_lengths(model.max_context):
            texts += writer.answer(f"{length} tokens of context", writer.long_prompt(texts, length))
    return tuple(texts)


class _Writer:
    """Prompts for a model, and its answers."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._has_template = model.has_chat_template and self._renders(_QUESTIONS[0])

    def short_prompts(self) -> tuple[Prompt, ...]:
        if self._has_template:
            return tuple(map(_conversation, _QUESTIONS))
        return _BEGINNINGS

    def without_thinking(self) -> Iterator[ProbeText]:
        """Answers without thinking, if the template has a switch for it."""
        if not self._has_template:
            return
        prompt = _conversation(_QUESTIONS[0])
        if self._model.token_ids(prompt, template_arguments=_NO_THINKING) == self._model.token_ids(prompt):
            return
        for question in _QUESTIONS:
            token_ids = self._model.token_ids(_conversation(question), template_arguments=_NO_THINKING)
            yield from self.answer(_WITHOUT_THINKING, token_ids)

    def long_prompt(self, texts: Sequence[ProbeText], length: int) -> list[int]:
        """Token ids of a prompt of about `length` tokens."""
        answers = [text.token_ids[text.prompt_length :] for text in texts]
        words = np.concatenate(answers)
        words = np.resize(words, length)
        text = self._model.tokenizer.decode(words.tolist())
        prompt: Prompt = _conversation(text) if self._has_template else text
        token_ids = self._model.token_ids(prompt)
        # Special tokens in an answer may become longer as text; the end of the prompt is the template's.
        surplus = len(token_ids) - length
        return token_ids if surplus <= 0 else token_ids[: length // 2] + token_ids[length // 2 + surplus :]

    def answer(self, name: str, prompt: Prompt) -> Iterator[ProbeText]:
        """The prompt with its answer, up to a loop in it; nothing if the answer is empty or the prompt too long."""
        token_ids = self._model.token_ids(prompt)
        if len(token_ids) + _ANSWER_TOKENS > self._model.max_context:
            return
        options = GenerationOptions(
            max_new_tokens=_ANSWER_TOKENS, sampling=SamplingOptions(temperature=0), max_draft_tokens=0
        )
        answer = self._model.generate(token_ids, options).token_ids
        whole = np.array([*token_ids, *answer[: loop_start(answer)]], dtype=np.int64)
        if len(whole) > len(token_ids) + 1:
            yield ProbeText(name=name, token_ids=whole, prompt_length=len(token_ids))

    def _renders(self, question: str) -> bool:
        try:
            self._model.token_ids(_conversation(question))
        except DovetailError:  # a template that wants more than a user's message
            return False
        return True


def _conversation(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def _context_lengths(max_context: int) -> tuple[int, ...]:
    """Lengths of longer prompts, shortened to what the context holds beside an answer."""
    room = max_context - _ANSWER_TOKENS
    return tuple(dict.fromkeys(min(length, room) for length in _CONTEXTS if min(length, room) > _ANSWER_TOKENS))
