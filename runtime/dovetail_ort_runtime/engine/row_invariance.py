"""Whether a row's result depends on the rows beside it: the property that exact speculation stands on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.measurements import RowInvariance
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target

# 64 rows are the most that a forward has. Odd sizes meet the kernels' leftover rows, and a portable forward of one row
# is padded.
ROWS_AT_EXPORT: Final = (1, 2, 3, 5, 8, 16, 64)
# Kernels are chosen by processor and ONNX Runtime version.
ROWS_AT_LOAD: Final = (2, 3, 8)
TOKENS_AT_EXPORT: Final = 120
TOKENS_AT_LOAD: Final = 8


def measure_row_invariance(target: Target, token_ids: TokenArray, rows: Sequence[int]) -> RowInvariance:
    """Feed the same tokens in forwards of each size and compare the bits of what comes out.

    Args:
        target: its cache is overwritten, and empty afterwards.
        token_ids: (T,) int64.
        rows: two sizes or more.
    """
    (first_logits, first_states), *others = [run_in_chunks(target, token_ids, size) for size in rows]
    target.cache.rewind(0)
    identical = all(
        np.array_equal(first_logits, logits) and np.array_equal(first_states, states) for logits, states in others
    )
    largest = max(float(np.abs(first_logits - logits).max()) for logits, _ in others)
    return RowInvariance(rows=tuple(rows), num_tokens=len(token_ids), identical=identical, largest_difference=largest)


def holds_here(target: Target) -> bool:
    """Whether it holds on this machine: a property of native kernels; else a short measurement."""
    if target.is_native:
        return True
    num_tokens = min(TOKENS_AT_LOAD, target.cache.capacity - 1)
    token_ids = np.arange(num_tokens) * 37 % target.vocabulary_size
    return measure_row_invariance(target, token_ids, ROWS_AT_LOAD).identical


def run_in_chunks(target: Target, token_ids: TokenArray, rows: int) -> tuple[FloatArray, FloatArray]:
    """Logits (T, V) and hidden states (T, E) of a text, `rows` tokens a forward."""
    target.cache.rewind(0)
    logits, hidden_states = [], []
    for start in range(0, len(token_ids), rows):
        chunk = token_ids[start : start + rows]
        result = target.forward(ForwardRows.chain(chunk, start))
        target.cache.keep(range(len(chunk)))
        logits.append(result.logits.copy())
        hidden_states.append(result.hidden_states.copy())
    return np.concatenate(logits), np.concatenate(hidden_states)
