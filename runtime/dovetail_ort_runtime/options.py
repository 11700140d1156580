"""How one answer is generated: its limits, the choice of its tokens, and a rule for them. It knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.checks import must_be, must_be_at_least, must_be_between
from dovetail_ort_runtime.errors import InputError

_MOST_ALTERNATIVES: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """Transformations of the logits, applied in the order of the fields; the defaults are greedy decoding.

    Attributes:
        repetition_penalty: number between 0.01 and 100. Positive logits of tokens that stand in prompt or answer are
            divided by it, negative ones multiplied by it (CTRL, arXiv 1909.05858). 1 changes nothing.
        temperature: number of 0 or more by which logits are divided. 0 always takes the highest logit, and among equal
            ones the lowest token id.
        top_k: number of most likely tokens that are kept, 0 or more. 0 keeps all.
        top_p: probability above 0 and at most 1. The smallest set of most likely tokens whose probabilities add up to
            it is kept (arXiv 1904.09751).
        min_p: factor between 0 and 1. Tokens less likely than this factor times the most likely one are dropped
            (arXiv 2407.01082).
        seed: start of the random numbers, 0 or more; None takes a new one. The same seed gives the same tokens, with
            and without speculation, unless the drafter samples its proposals.
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        must_be_between("repetition_penalty", self.repetition_penalty, 0.01, 100)
        must_be_at_least("temperature", self.temperature, 0)
        must_be_at_least("top_k", self.top_k, 0)
        must_be("top_p", "above 0 and at most 1", self.top_p, holds=0 < self.top_p <= 1)
        must_be_between("min_p", self.min_p, 0, 1)
        must_be_at_least("seed", self.seed, 0)

    @property
    def is_greedy(self) -> bool:
        """Whether the highest logit is always taken."""
        return self.temperature == 0


class Constraint(Protocol):
    """A rule that answers must follow, such as a grammar. One rule may serve any number of answers."""

    def start(self) -> ConstraintState:
        """The state of the rule before an answer's first token."""


class ConstraintState(Protocol):
    """How far one answer has come in its rule.

    `allowed` is called before each token. `advance` is called with each token that is kept, never with draft tokens
    that the target rejects. A round may continue after an end-of-text token; those tokens are dropped. There too
    `allowed` must allow at least one token.
    """

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next; where the text may end, end-of-text tokens are among them.

        Returns:
            (n,) bool, by token id. Ids from n on are not allowed. Entries from V on are not read, because vocabularies
            are padded differently.
        """

    def advance(self, token_id: int) -> None:
        """Take note of the answer's next token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOptions:
    """Settings of one call of `generate` or `stream`.

    Attributes:
        max_new_tokens: largest number of tokens of the answer, 1 or more.
        stop: strings that end the answer and are left out of it. They are searched for in a text in which special
            tokens are spelt out, so ``<|im_end|>`` ends an answer at that token.
        sampling: how tokens are chosen; the bundle's own settings if None.
        max_draft_tokens: largest number of draft tokens in a round, 0 or more. 0 decodes without speculation.
        constraint: a rule that the answer follows, such as a grammar; None allows every token. An answer that ends at a
            limit may stop in the middle of what the rule demands.
        logprobs: number of most likely tokens, 0 to 20. Each piece then has their log-probabilities and that of its own
            token; None for no log-probabilities.
        skip_special_tokens: whether special tokens and the end-of-text token are left out of the text.
    """

    max_new_tokens: int = 512
    stop: tuple[str, ...] = ()
    sampling: SamplingOptions | None = None
    max_draft_tokens: int = 12
    constraint: Constraint | None = None
    logprobs: int | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        must_be_at_least("max_new_tokens", self.max_new_tokens, 1)
        check_stop_strings(self.stop)
        must_be_at_least("max_draft_tokens", self.max_draft_tokens, 0, advice="0 decodes without speculation")
        must_be_between("logprobs", self.logprobs, 0, _MOST_ALTERNATIVES)


def check_stop_strings(stops: Sequence[str]) -> None:
    """Refuse what cannot end an answer.

    Raises:
        InputError: the stop strings are one string instead of a sequence, or one of them is empty or no string.
    """
    if isinstance(stops, str):
        raise InputError(f'stop must be a sequence of strings, got the string "{stops}"; put it into a list')
    for stop in stops:
        if not isinstance(stop, str) or not stop:
            raise InputError(f"a stop string must be a string of one or more characters, got {stop!r}")
