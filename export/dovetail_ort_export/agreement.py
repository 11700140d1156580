"""How far the exported graph is from the model it came from."""

from __future__ import annotations

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, ProbabilityArray, TokenArray
from dovetail_ort_runtime.measurements import Agreement
from dovetail_ort_runtime.row_invariance import run_in_chunks
from dovetail_ort_runtime.target import Target


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


def _kl(expected: FloatArray, got: FloatArray) -> float:
    """KL(softmax(expected) || softmax(got)) in nats."""
    log_p, log_q = (_log_softmax(row.astype(np.float64)) for row in (expected, got))
    return float(np.exp(log_p) @ (log_p - log_q))


def _log_softmax(row: ProbabilityArray) -> ProbabilityArray:
    shifted: ProbabilityArray = row - row.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted
