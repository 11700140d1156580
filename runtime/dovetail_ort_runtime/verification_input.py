"""What the target reads in one pass: token ids, positions, and who sees whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.proposal import ROOT, Proposal


@dataclass(frozen=True, slots=True, eq=False)
class VerificationInput:
    """Rows of one target pass.

    Attributes:
        token_ids: (S,) int64.
        position_ids: (S,) int64.
        attention_bias: (1, 1, S, P + S) float32, 0 where a row sees a slot, else -inf; None if every row sees all slots
            before it.
    """

    token_ids: TokenArray
    position_ids: TokenArray
    attention_bias: FloatArray | None = None

    @classmethod
    def prompt(cls, token_ids: TokenArray, num_past: int) -> VerificationInput:
        """Tokens behind `num_past` kept ones."""
        return cls(token_ids, np.arange(num_past, num_past + len(token_ids)))

    @classmethod
    def proposal(cls, root: int, proposal: Proposal, num_past: int) -> VerificationInput:
        """The root and its draft tokens behind `num_past` kept ones: row 0 is the root, row i + 1 draft token i.

        A draft token's position is the root's plus its depth; it sees the kept tokens, its ancestors and itself.
        """
        token_ids = np.concatenate(([root], proposal.token_ids))
        if proposal.is_chain:
            return cls.prompt(token_ids, num_past)
        positions = num_past + np.concatenate(([0], proposal.depths()))
        return cls(token_ids, positions, _tree_bias(proposal, num_past))


def _tree_bias(proposal: Proposal, num_past: int) -> FloatArray:
    """Rows inherit their parent's view and add themselves."""
    num_rows = 1 + len(proposal)
    bias = np.full((num_rows, num_past + num_rows), -np.inf, dtype=np.float32)
    bias[:, : num_past + 1] = 0
    for index, parent in enumerate(proposal.parents):
        row = index + 1
        if parent != ROOT:
            bias[row] = bias[parent + 1]
        bias[row, num_past + row] = 0
    return bias[None, None]
