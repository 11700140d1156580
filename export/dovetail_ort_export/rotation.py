"""An orthogonal change of basis that spreads outliers evenly over all channels; it knows no model and no graph."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray

_SEED: Final = 0


class Rotation:
    """`x -> x R` with R = A ⊗ B orthogonal: two small products in place of one with an E x E matrix.

    A and B are Hadamard matrices where their size is a power of two, times a cosine transform for the odd part of the
    size, each row with a random sign (the rotation that QuaRot, arXiv 2404.00456, folds into weights). A unit vector
    along one channel becomes one whose entries are all of the order of 1 / sqrt(E).

    Args:
        size: E, the width of what is rotated; the closer to the product of two like numbers, the cheaper.

    Attributes:
        left: A, (a, a) float32.
        right: B, (b, b) float32, a * b = E.
    """

    def __init__(self, size: int) -> None:
        rows = max(factor for factor in range(1, math.isqrt(size) + 1) if size % factor == 0)
        random = np.random.default_rng(_SEED)
        self.left = _orthogonal(rows, random)
        self.right = _orthogonal(size // rows, random)

    def apply(self, x: FloatArray) -> FloatArray:
        """`x R` along the last axis.

        Args:
            x: (..., E) float32.

        Returns:
            (..., E) float32.
        """
        by_factor = x.reshape(*x.shape[:-1], len(self.left), len(self.right))
        rotated: FloatArray = (self.left.T @ (by_factor @ self.right)).reshape(x.shape)
        return rotated


def _orthogonal(size: int, random: np.random.Generator) -> FloatArray:
    power = size & -size
    matrix = _cosine_transform(size // power)
    while len(matrix) < size:
        matrix = np.kron([[1, 1], [1, -1]] / np.sqrt(2), matrix)
    signs = random.choice([-1.0, 1.0], size)
    return (signs[:, None] * matrix).astype(np.float32)


def _cosine_transform(size: int) -> NDArray[np.float64]:
    """Orthonormal DCT-II, a function of the input's index along the rows."""
    index = np.arange(size)
    matrix: NDArray[np.float64] = np.cos(np.pi * (index[:, None] + 0.5) * index / size)
    matrix /= np.linalg.norm(matrix, axis=0)
    return matrix
