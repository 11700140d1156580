"""What was accepted so far, and what it says about the next draft tokens. It knows no times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Beliefs before anything is observed, and how many observations they weigh.
_COPIES: Final = (0.35, 0.5, 0.65, 0.75, 0.85, 0.9)
_COPIES_WEIGHT: Final = 6.0
_MODEL_GAIN: Final = 0.8
_MODEL_WEIGHT: Final = 3.0
_PROMISE_WEIGHT: Final = 4.0
# An observation counts half after so many more: acceptance changes within an answer.
_HALF_LIFE: Final = 32
_LEAST_KEPT: Final = 0.05
LONGEST_MATCH: Final = len(_COPIES)


class DecayingRatio:
    """A ratio of two sums whose terms lose half of their weight every so many observations.

    Args:
        value: before anything is observed.
        weight: of that belief, in the unit of the lower sum.
        half_life: observations.
    """

    def __init__(self, value: float, weight: float, half_life: float = _HALF_LIFE) -> None:
        self._keep = 0.5 ** (1 / half_life)
        self._upper, self._lower = value * weight, weight

    @property
    def value(self) -> float:
        """The ratio."""
        return self._upper / self._lower

    def add(self, amount: float, weight: float = 1.0) -> None:
        """One more observation, for the upper and for the lower sum."""
        self._upper = self._keep * self._upper + amount
        self._lower = self._keep * self._lower + weight


class AcceptanceRates:
    """How drafts fared by the length of the match before them; `LONGEST_MATCH` stands for longer ones too."""

    def __init__(self) -> None:
        self._copies = [DecayingRatio(share, _COPIES_WEIGHT) for share in _COPIES]
        self._gains = [DecayingRatio(_MODEL_GAIN, _MODEL_WEIGHT) for _ in range(LONGEST_MATCH + 1)]
        self._first_promise = DecayingRatio(1.0, _PROMISE_WEIGHT)
        self._further_promises = DecayingRatio(1.0, _PROMISE_WEIGHT)

    def copied_right(self, match: int) -> float:
        """Probability that a token copied after a match of 1 token or more is accepted, if those before it are."""
        return self._copies[match - 1].value

    def model_gain(self, match: int) -> float:
        """Tokens that a model's draft gains after a match of 0 tokens or more, its cost subtracted."""
        return self._gains[match].value

    def kept(self, depth: int) -> float:
        """How often a model's token at a depth of 1 or more is accepted, over the probability it gave itself."""
        kept = self._first_promise.value * self._further_promises.value ** (depth - 1)
        return max(kept, _LEAST_KEPT)

    def copied(self, match: int, drafted: int, accepted: int) -> None:
        """A copy of some tokens was verified."""
        self._copies[match - 1].add(accepted, min(accepted + 1, drafted))

    def modelled(self, match: int, promises: Sequence[float], accepted: int, gain: float) -> None:
        """A model's draft was verified.

        Args:
            match: tokens that matched where it was drafted.
            promises: as of `Proposal.tested`.
            accepted: draft tokens that were.
            gain: as of `model_gain`.
        """
        self._gains[match].add(gain)
        for depth, promised in enumerate(promises):
            promise = self._further_promises if depth else self._first_promise
            promise.add(float(depth < accepted), promised)
