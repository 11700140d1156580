"""What the target reads in one forward: token ids, positions, and who follows whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.proposal import Proposal


@dataclass(frozen=True, slots=True, eq=False)
class VerificationInput:
    """Rows of one target forward; every row sees all kept tokens, the rows that it follows, and itself.

    Attributes:
        token_ids: (S,) int64.
        position_ids: (S,) int64.
        parents: (S,) int64, for each row the earlier row that it follows, or -1 if it follows the kept tokens; None for
            a chain, where each row follows the one before it.
    """

    token_ids: TokenArray
    position_ids: TokenArray
    parents: TokenArray | None = None

    @classmethod
    def prompt(cls, token_ids: TokenArray, num_past: int) -> VerificationInput:
        """Tokens behind `num_past` kept ones."""
        return cls(token_ids, np.arange(num_past, num_past + len(token_ids)))

    @classmethod
    def proposal(cls, root: int, proposal: Proposal, num_past: int) -> VerificationInput:
        """The root and its draft tokens behind `num_past` kept ones: row 0 is the root, row i + 1 draft token i.

        A draft token's position is the root's plus its depth.
        """
        token_ids = np.concatenate(([root], proposal.token_ids))
        if proposal.is_chain:
            return cls.prompt(token_ids, num_past)
        positions = num_past + np.concatenate(([0], proposal.depths()))
        return cls(token_ids, positions, np.concatenate(([-1], proposal.parents + 1)))
