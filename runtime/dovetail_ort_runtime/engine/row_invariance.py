"""Whether a target is batch-invariant: a row's result does not depend on the rows beside it.

Exact speculation needs this property.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle.measurements import RowInvariance
from dovetail_ort_runtime.engine.target import Target

# 64 rows are the most that a forward has. Odd sizes reach the kernels' code for leftover rows. A portable forward of
# one row is padded.
ROWS_AT_EXPORT: Final = (1, 2, 3, 5, 8, 16, 64)
# Kernels are chosen by processor and ONNX Runtime version.
ROWS_AT_LOAD: Final = (2, 3, 8)
TOKENS_AT_EXPORT: Final = 120
TOKENS_AT_LOAD: Final = 8


def measure_row_invariance(target: Target, token_ids: TokenArray, rows: Sequence[int]) -> RowInvariance:
    """Feed the same tokens in forwards of each size, and compare the bits of what comes out.

    Args:
        target: the target; its cache is overwritten, and empty afterwards.
        token_ids: (T,) int64.
        rows: two sizes or more.
    """
    outputs = [target.read(token_ids, rows=size) for size in rows]
    target.cache.rewind(0)
    first = outputs[0]
    others = outputs[1:]
    identical = all(
        np.array_equal(first.logits, other.logits) and np.array_equal(first.hidden_states, other.hidden_states)
        for other in others
    )
    largest = max(float(np.abs(first.logits - other.logits).max()) for other in others)
    return RowInvariance(rows=tuple(rows), num_tokens=len(token_ids), identical=identical, largest_difference=largest)


def holds_here(target: Target) -> bool:
    """Whether a target is batch-invariant on this machine.

    Native kernels always are. Others are measured briefly, which leaves the target's cache empty.
    """
    if target.is_native:
        return True
    num_tokens = min(TOKENS_AT_LOAD, target.cache.capacity - 1)
    token_ids = np.arange(num_tokens) * 37 % target.vocabulary_size
    return measure_row_invariance(target, token_ids, ROWS_AT_LOAD).identical
