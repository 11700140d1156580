"""How one answer is generated: its limits, the choice of its tokens, and a rule for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.errors import InputError

_MOST_ALTERNATIVES: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """Transformations of the logits, applied in the order of the fields; the defaults are greedy decoding.

    Attributes:
        repetition_penalty: in [0.01, 100]; logits of tokens seen in prompt or answer are divided by it if positive and
            multiplied by it if negative (CTRL, arXiv 1909.05858). 1 leaves them.
        temperature: >= 0; logits are divided by it. 0 takes the highest logit, ties to the lower id.
        top_k: >= 0; only the k most likely tokens stay. 0 keeps all.
        top_p: in (0, 1]; the smallest set of most likely tokens whose mass reaches it stays (arXiv 1904.09751).
        min_p: in [0, 1]; tokens less likely than min_p times the likeliest go (arXiv 2407.01082).
        seed: >= 0, or None for a fresh one. The same seed gives the same tokens, with and without speculation,
            unless the drafter samples its proposals.
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        bounds = (
            ("repetition_penalty", "between 0.01 and 100", 0.01 <= self.repetition_penalty <= 100),
            ("temperature", "0 or more", self.temperature >= 0),
            ("top_k", "0 or more", self.top_k >= 0),
            ("top_p", "above 0 and at most 1", 0 < self.top_p <= 1),
            ("min_p", "between 0 and 1", 0 <= self.min_p <= 1),
            ("seed", "0 or more, or None", self.seed is None or self.seed >= 0),
        )
        for name, rule, holds in bounds:
            if not holds:
                raise InputError(f"{name} must be {rule}, got {getattr(self, name)}")

    @property
    def is_greedy(self) -> bool:
        """Whether the highest logit is taken."""
        return self.temperature == 0


class Constraint(Protocol):
    """A rule for any number of answers, such as a grammar."""

    def start(self) -> ConstraintState:
        """The rule before an answer's first token."""


class ConstraintState(Protocol):
    """Where one answer stands in its rule.

    `allowed` is asked before each token, `advance` is told each that is kept, draft tokens that the target rejects
    never. A round may go on behind an end-of-text token, and what it decides there is dropped: then, too, `allowed`
    must give a token or more.
    """

    def allowed(self) -> NDArray[np.bool_]:
        """(n,) bool: the tokens that may come next, by id; end-of-text tokens among them where the text may end.

        Ids from n on are not allowed, and what exceeds V is not read: vocabularies are padded differently.
        """

    def advance(self, token_id: int) -> None:
        """The next token is this one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOptions:
    """Settings of one call of `generate` or `stream`.

    Attributes:
        max_new_tokens: >= 1; the answer ends there at the latest.
        stop: strings that end the answer and are left out of it; special tokens stand in the text that is searched as
            they are spelt, so that ``<|im_end|>`` ends an answer where that token comes.
        sampling: how tokens are chosen; the bundle's own settings if None.
        max_draft_tokens: >= 0; draft tokens a round at most, 0 to decode without speculation.
        constraint: rules out tokens, so that the answer follows a grammar. An answer that a limit ends may stop in the
            middle of what it demands.
        logprobs: None, or 0 to 20: every piece then has its token's log-probability and those of so many likeliest
            tokens.
        skip_special_tokens: whether the text leaves special tokens and the end-of-text token out.
    """

    max_new_tokens: int = 512
    stop: tuple[str, ...] = ()
    sampling: SamplingOptions | None = None
    max_draft_tokens: int = 12
    constraint: Constraint | None = None
    logprobs: int | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be 1 or more, got {self.max_new_tokens}")
        check_stop_strings(self.stop)
        if self.max_draft_tokens < 0:
            raise InputError(
                f"max_draft_tokens must be 0 or more, got {self.max_draft_tokens}; 0 decodes without speculation"
            )
        if self.logprobs is not None and not 0 <= self.logprobs <= _MOST_ALTERNATIVES:
            raise InputError(f"logprobs must be None or between 0 and {_MOST_ALTERNATIVES}, got {self.logprobs}")


def check_stop_strings(stops: Sequence[str]) -> None:
    """Refuse what cannot end an answer.

    Raises:
        InputError: the stop strings are one string in place of a sequence, or one of them is empty or no string.
    """
    if isinstance(stops, str):
        raise InputError(f'stops must be a sequence of strings, got the string "{stops}"; put it into a list')
    for stop in stops:
        if not isinstance(stop, str) or not stop:
            raise InputError(f"a stop string must be a string of one or more characters, got {stop!r}")
