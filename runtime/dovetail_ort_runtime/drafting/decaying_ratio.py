"""A ratio that forgets. It knows no tokens."""

from __future__ import annotations

from typing import Final

# Acceptance changes within an answer.
_HALF_LIFE: Final = 32


class DecayingRatio:
    """A ratio of two sums whose terms lose half of their weight every so many observations.

    Args:
        value: the ratio before anything is observed.
        weight: weight of that belief, in the unit of the lower sum.
        half_life: number of observations after which an observation counts half.
    """

    def __init__(self, value: float, weight: float, half_life: float = _HALF_LIFE) -> None:
        self._keep = 0.5 ** (1 / half_life)
        self._upper = value * weight
        self._lower = weight

    @property
    def value(self) -> float:
        """The upper sum over the lower one."""
        return self._upper / self._lower

    def add(self, amount: float, weight: float = 1.0) -> None:
        """Take in one more observation.

        Args:
            amount: term of the upper sum.
            weight: term of the lower sum.
        """
        self._upper = self._keep * self._upper + amount
        self._lower = self._keep * self._lower + weight
