"""8-bit weights with one scale per output: the numbers behind MatMulIntegerToFloat."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray

LARGEST: Final = 127
# Unsigned activations and signed weights are what the processors' dot products take.
ACTIVATION_ZERO_POINT: Final = 128


def output_scales(weight: FloatArray) -> FloatArray:
    """Scale of each output: its weights' largest magnitude over 127; 1 where all are zero or nearly so.

    Args:
        weight: (N, K) float32.

    Returns:
        (N,) float32.
    """
    exact = np.abs(weight).max(axis=1) / np.float32(LARGEST)
    scales: FloatArray = np.where(exact >= np.finfo(np.float32).tiny, exact, np.float32(1))
    return scales


def quantize_outputs(weight: FloatArray) -> NDArray[np.int8]:
    """Weights as multiples of their output's scale, nearest even, inputs first.

    Args:
        weight: (N, K) float32.

    Returns:
        (K, N) int8; `quantize_outputs(w) * output_scales(w)` is close to `w.T`.
    """
    steps = weight / output_scales(weight)[:, None]
    return np.ascontiguousarray(np.rint(steps, out=steps).astype(np.int8).T)
