"""How far a graph's next-token distributions are from an original's. It knows only logits, not whose they are."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.measurements import Agreement, Measurements
from dovetail_ort_runtime.engine.row_invariance import (
    ROWS_AT_EXPORT,
    TOKENS_AT_EXPORT,
    measure_row_invariance,
)
from dovetail_ort_runtime.engine.target import Target

# Nats: room above what an INT8 format costs (the formats in docs/kernels.md).
LARGEST_MEAN_KL: Final = 0.02


def measure_target(target: Target, token_ids: TokenArray, reference: FloatArray) -> Measurements:
    """Whether a target is batch-invariant, and its distance from an original's logits.

    Args:
        target: target to measure; its cache is overwritten.
        token_ids: (T,) int64, for which the cache has room.
        reference: (T, V) float32, the original's logits at these tokens.
    """
    num_tokens = min(TOKENS_AT_EXPORT, target.cache.capacity - 1)  # a single row at the end may be padded to two
    row_invariance = measure_row_invariance(target, token_ids[:num_tokens], ROWS_AT_EXPORT)
    logits = target.read(token_ids).logits
    return Measurements(row_invariance=row_invariance, agreement=divergence(logits, reference))


def divergence(logits: FloatArray, reference: FloatArray) -> Agreement:
    """Compare next-token distributions with those of `reference`.

    Args:
        logits: (T, V) float32, logits or log-probabilities.
        reference: (T, V) float32, logits or log-probabilities.
    """
    top1 = float((logits.argmax(axis=-1) == reference.argmax(axis=-1)).mean())
    divergences = [_kl(expected, got) for expected, got in zip(reference, logits, strict=True)]
    return Agreement(num_tokens=len(logits), top1=top1, mean_kl=float(np.mean(divergences)))


def _kl(expected: FloatArray, got: FloatArray) -> float:
    """KL(softmax(expected) || softmax(got)) in nats, of two rows (V,)."""
    return float(functional.kl_div(_log_softmax(got), _log_softmax(expected), reduction="sum", log_target=True))


def _log_softmax(row: FloatArray) -> Tensor:
    return torch.tensor(row, dtype=torch.float64).log_softmax(-1)
