"""How many tokens a model drafts in a round, and in which form. It knows no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dovetail_ort_runtime.checks import must_be_between
from dovetail_ort_runtime.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainShape:
    """A chain of K tokens at most.

    Attributes:
        least_probabilities: K numbers of 0 to 1, one for each token. The drafter gives a probability that all tokens up
            to this one are accepted. The chain ends before the first token whose probability is below its number.

    Raises:
        InputError: there is no number, or one is not between 0 and 1.
    """

    least_probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.least_probabilities:
            raise InputError("a chain must have 1 token or more, got 0")
        _check_probabilities(self.least_probabilities)

    @classmethod
    def fixed(cls, num_tokens: int) -> ChainShape:
        """A chain that always has so many tokens."""
        return cls(least_probabilities=(0.0,) * num_tokens)

    @property
    def num_tokens(self) -> int:
        """K, the number of tokens at most."""
        return len(self.least_probabilities)


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeShape:
    """A tree that grows where the drafter is confident, T/D/k in the papers.

    Attributes:
        num_rows: T >= 1, rows that the target verifies, the root included. With 1 nothing is drafted.
        num_expansions: D >= 0, forwards of the drafter after its first one.
        width: k >= 1, candidates of a node, and nodes at one depth that are expanded.
        least_probabilities: a number of 0 to 1 for each expansion; less probable nodes are not expanded. If empty, all
            are.

    Raises:
        InputError: a number is out of its bounds.
    """

    num_rows: int
    num_expansions: int
    width: int
    least_probabilities: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if min(self.num_rows, self.width) < 1 or self.num_expansions < 0:
            raise InputError(
                f"a tree must have T >= 1, D >= 0, k >= 1, got {self.num_rows}/{self.num_expansions}/{self.width}"
            )
        if len(self.least_probabilities) not in (0, self.num_expansions):
            raise InputError(
                f"least_probabilities must be one for each of {self.num_expansions} expansions or none, "
                f"got {len(self.least_probabilities)}"
            )
        _check_probabilities(self.least_probabilities)


def _check_probabilities(numbers: tuple[float, ...]) -> None:
    for number in numbers:
        must_be_between("least_probabilities", number, 0, 1)


FOUR_TOKENS: Final = ChainShape.fixed(4)
