"""Run an exported bundle before it is declared good: against the original model, and against itself."""

from __future__ import annotations

from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, ProbabilityArray, TokenArray
from dovetail_ort_runtime.manifest import Agreement, RowInvariance
from dovetail_ort_runtime.target import Target
from dovetail_ort_runtime.verification_input import VerificationInput

# Two rows are the least an exact pass has, 64 the most; odd sizes meet the kernels' leftover rows.
COMPARED_ROWS: Final = (2, 3, 5, 8, 64)
COMPARED_TOKENS: Final = 120


def measure_row_invariance(target: Target, token_ids: TokenArray) -> RowInvariance:
    """Feed the same tokens in passes of each size in `COMPARED_ROWS` and compare the bits of what comes out.

    Args:
        target: of the bundle; its cache is overwritten.
        token_ids: (T,) int64; the first `COMPARED_TOKENS` are used.
    """
    tokens = token_ids[:COMPARED_TOKENS]
    runs = [run_in_chunks(target, tokens, rows) for rows in COMPARED_ROWS]
    first_logits, first_states = runs[0]
    identical = all(
        np.array_equal(first_logits, logits) and np.array_equal(first_states, states) for logits, states in runs
    )
    largest = max(float(np.abs(first_logits - logits).max()) for logits, _ in runs)
    return RowInvariance(rows=COMPARED_ROWS, num_tokens=len(tokens), identical=identical, largest_difference=largest)


def measure_agreement(target: Target, token_ids: TokenArray, reference: FloatArray) -> Agreement:
    """Compare the bundle's next-token distributions with the original model's.

    Args:
        target: of the bundle; its cache is overwritten.
        token_ids: (T,) int64.
        reference: (T, V) float32, the original's logits at the same tokens.
    """
    logits, _ = run_in_chunks(target, token_ids, target.max_rows)
    top1 = float((logits.argmax(axis=-1) == reference.argmax(axis=-1)).mean())
    divergences = [_kl(expected, got) for expected, got in zip(reference, logits, strict=True)]
    return Agreement(num_tokens=len(token_ids), top1=top1, mean_kl=float(np.mean(divergences)))


def run_in_chunks(target: Target, token_ids: TokenArray, rows: int) -> tuple[FloatArray, FloatArray]:
    """Logits (T, V) and hidden states (T, E) of a text fed from position 0, `rows` tokens a pass."""
    target.cache.rewind(0)
    logits, hidden_states = [], []
    for start in range(0, len(token_ids), rows):
        chunk = token_ids[start : start + rows]
        result = target.forward(VerificationInput.prompt(chunk, start))
        target.cache.keep(range(len(chunk)))
        logits.append(result.logits.copy())
        hidden_states.append(result.hidden_states.copy())
    return np.concatenate(logits), np.concatenate(hidden_states)


def _kl(expected: FloatArray, got: FloatArray) -> float:
    """KL(softmax(expected) || softmax(got)) in nats."""
    log_p, log_q = (_log_softmax(row.astype(np.float64)) for row in (expected, got))
    return float(np.exp(log_p) @ (log_p - log_q))


def _log_softmax(row: ProbabilityArray) -> ProbabilityArray:
    shifted: ProbabilityArray = row - row.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted
