"""Rows of one forward of the target: token ids, positions, and which row follows which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail_ort_runtime.arrays import TokenArray


@dataclass(frozen=True, slots=True, eq=False)
class ForwardRows:
    """Rows of one forward; every row sees all kept tokens, the rows that it follows, and itself.

    Attributes:
        token_ids: (S,) int64, the token of each row.
        position_ids: (S,) int64, the position of each row in the text.
        parents: (S,) int64, for each row the earlier row that it follows, or -1 if it follows the kept tokens; None for
            a chain, where each row follows the one before it.
    """

    token_ids: TokenArray
    position_ids: TokenArray
    parents: TokenArray | None = None

    @classmethod
    def chain(cls, token_ids: TokenArray, num_past: int) -> ForwardRows:
        """Rows of tokens that follow one another.

        Args:
            token_ids: (S,) int64.
            num_past: number of kept tokens before them.
        """
        return cls(token_ids, np.arange(num_past, num_past + len(token_ids)))
