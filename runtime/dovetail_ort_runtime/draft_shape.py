"""How many tokens a model drafter drafts in a round, and in which form."""

from __future__ import annotations

from dataclasses import dataclass

from dovetail_ort_runtime.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainShape:
    """Tokens one after the other.

    Attributes:
        num_tokens: >= 1, at most so many.
        least_probability: 0 to 1; the chain ends where the drafter's probability that all of it is accepted would
            fall below. The first token is drafted in any case: an exact pass over one row costs as much as over two.
    """

    num_tokens: int = 6
    least_probability: float = 0.2

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise InputError(f"num_tokens must be 1 or more, got {self.num_tokens}")
        if not 0 <= self.least_probability <= 1:
            raise InputError(f"least_probability must be between 0 and 1, got {self.least_probability}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeShape:
    """A dynamic tree, T/D/k in the papers.

    Attributes:
        num_rows: T >= 1, rows that the target verifies, the root included; 1 is plain decoding.
        num_expansions: D >= 0, passes after the first.
        width: k >= 1, candidates of a node, and nodes of a level that are expanded.
    """

    num_rows: int
    num_expansions: int
    width: int

    def __post_init__(self) -> None:
        if min(self.num_rows, self.width) < 1 or self.num_expansions < 0:
            raise InputError(
                f"a tree must have T >= 1, D >= 0, k >= 1, got {self.num_rows}/{self.num_expansions}/{self.width}"
            )
