"""Tables and paragraphs as the pages of this repository write them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

LINE_LENGTH: Final = 120


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """A table whose first column is text; the others are aligned to the right if they are numbers."""
    others = "---:" if numbers else "---"
    rule = "|".join(["---", *[others] * (len(header) - 1)])
    lines = [_row(header), f"|{rule}|"]
    lines += [_row(row) for row in rows]
    return "\n".join(lines)


def paragraph(text: str) -> str:
    """Text in lines of at most 120 characters; links and code are not broken at hyphens."""
    return textwrap.fill(text, LINE_LENGTH, break_long_words=False, break_on_hyphens=False)


def blocks(*parts: str) -> str:
    """Tables and paragraphs with an empty line between them."""
    return "\n\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
