"""How the next token is chosen from the target's logits."""

from __future__ import annotations

from dataclasses import dataclass

from dovetail_ort_runtime.errors import InputError


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
