"""The rows that verify a proposal. It knows no session."""

from __future__ import annotations

import numpy as np

from dovetail_ort_runtime.drafting.proposal import Proposal
from dovetail_ort_runtime.engine.forward_rows import ForwardRows


def verification_rows(root: int, proposal: Proposal, num_past: int) -> ForwardRows:
    """The root and its draft tokens after `num_past` kept tokens.

    Row 0 is the root and row i + 1 is draft token i. The position of a draft token is that of the root plus its depth.
    """
    token_ids = np.concatenate(([root], proposal.token_ids))
    if proposal.is_chain:
        return ForwardRows.chain(token_ids, num_past)
    positions = num_past + np.concatenate(([0], proposal.depths()))
    return ForwardRows(token_ids, positions, np.concatenate(([-1], proposal.parents + 1)))
