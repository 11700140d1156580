"""What tree sizes that a paper does not report would accept, from one that it does and from a curve measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

_HALVINGS: Final = 60
_LARGEST_FACTOR: Final = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledLength:
    """Tokens a round with a tree of some size.

    Attributes:
        tokens: the estimate.
        least: with less, the published tree would gain more by its last nodes than by its first.
        most: with more, it would accept more nodes than it has, or more than the published tree.
    """

    tokens: float
    least: float
    most: float


def scale_lengths(measured: Mapping[int, float], published_rows: int, published: float) -> dict[int, ScaledLength]:
    """Tokens a round of every measured tree size up to the published one, for the drafter of the paper.

    A tree holds the nodes most likely to be accepted, so what each further row adds is its chance of acceptance, and
    falls with the size. The estimate multiplies the odds of every measured chance by one factor, with which the
    published size comes out as published. The limits ask for nothing but chances that fall.

    Example: measured {2: 1.5, 4: 2.1} are chances of 0.5, 0.3 and 0.3. Where 4 rows are published with 3.1, all odds
    are multiplied by 4.2, which gives 0.81, 0.64 and 0.64, and so 1.81 for 2 rows.

    Args:
        measured: tokens a round by rows of the tree, the root among them; it has `published_rows`.
        published_rows: of the paper's tree.
        published: tokens a round with it.
    """
    points = [(1, 1.0), *((rows, tokens) for rows, tokens in sorted(measured.items()) if rows <= published_rows)]
    chances = [(end - start, (more - less) / (end - start)) for (start, less), (end, more) in pairwise(points)]
    low, high = 0.0, _LARGEST_FACTOR
    for _ in range(_HALVINGS):
        factor = (low + high) / 2
        low, high = (factor, high) if _total(chances, factor) < published else (low, factor)
    return {
        rows: ScaledLength(
            tokens=_total(chances[: index + 1], high),
            least=1 + (published - 1) * (rows - 1) / (published_rows - 1),
            most=min(rows, published),
        )
        for index, (rows, _) in enumerate(points[1:])
    }


def _total(chances: list[tuple[int, float]], factor: float) -> float:
    """Tokens a round of a tree whose further rows have these chances, their odds multiplied."""
    return 1 + sum(rows * factor * chance / (1 + (factor - 1) * chance) for rows, chance in chances)
