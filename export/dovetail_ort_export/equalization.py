"""Weights of an equal model whose activations are easier to quantise: every change is folded into weights.

Three changes leave what the model computes as it is:

- The residual stream is rotated (`Rotation`): what writes to it (embedding, output and down projections) is rotated,
  what reads it is rotated back, and the norms' weights move into the products behind them, since only the plain norm
  commutes with a rotation. Outlier channels disappear, so that behind a norm one constant scale serves every row.
- Behind each norm, channels are scaled by SmoothQuant's rule (arXiv 2211.10438), `s = max|x|^alpha / max|w|^(1-alpha)`:
  the norm's weight becomes `1 / s`, the products' columns take `s`.
- So are the values that attention mixes: rows of the value projection over `s`, columns of the output projection times
  `s`, one `s` for all query heads that share a value head.

Query and key norms and their biases see neither.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_export.weights import NamedWeights, head_size
from dovetail_ort_runtime.arrays import FloatArray

# Families whose blocks have the parts named below and nothing between them that a rotation would not pass.
EQUALIZED_FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")

_ROTATION_SEED: Final = 0

Edit = Callable[[FloatArray], FloatArray]


class EqualizedWeights(NamedWeights):
    """The weights of the equal model by name, computed when they are asked for.

    The final norm and what follows it stay in the model's own basis; `passes.equalize` changes the basis there.

    Args:
        weights: of the model.
        config: of the model, its family one of `EQUALIZED_FAMILIES`.
        maxima: what `activation_maxima` found.
        alpha: 0 to 1, how much of the activations' range the weights take over.

    Attributes:
        rotation: of the residual stream.
        ranges: largest magnitude that each block norm's output had, by the name of the norm's weight.
        value_scales: (Hkv * D,) float32 by block, what the values of the model are divided by.
    """

    def __init__(self, weights: NamedWeights, config: Any, maxima: Mapping[str, FloatArray], alpha: float) -> None:
        super().__init__(weights.tensors)
        self.rotation = Rotation(config.hidden_size)
        self.ranges: dict[str, float] = {}
        self.value_scales: list[FloatArray] = []
        self._weights = weights
        self._maxima = maxima
        self._alpha = alpha
        self._edits: defaultdict[str, list[Edit]] = defaultdict(list)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            self._edits[self.canonical_name(name)] = [self.rotation.apply]
        for index in range(config.num_hidden_layers):
            self._equalize_block(f"model.layers.{index}.", config)

    @property
    def edited_names(self) -> tuple[str, ...]:
        """The weights that differ from the model's."""
        return tuple(name for name in self._edits if name in self)

    def __getitem__(self, name: str) -> FloatArray:
        """The weight `name` of the equal model as a float32 array."""
        weight = self._weights[name]
        for edit in self._edits.get(name, ()):
            weight = edit(weight)
        return weight

    def _equalize_block(self, block: str, config: Any) -> None:
        attention, mlp = f"{block}self_attn.", f"{block}mlp."
        self._fold_norm(f"{block}input_layernorm", [f"{attention}{part}_proj" for part in "qkv"])
        self._fold_norm(f"{block}post_attention_layernorm", [f"{mlp}gate_proj", f"{mlp}up_proj"])
        self._share_value_scales(attention, config)
        for writer in (f"{attention}o_proj", f"{mlp}down_proj"):
            self._edits[f"{writer}.weight"].append(lambda weight: self.rotation.apply(weight.T).T)
            self._edits[f"{writer}.bias"].append(self.rotation.apply)

    def _fold_norm(self, norm: str, products: Sequence[str]) -> None:
        gamma = self._weights[f"{norm}.weight"]
        names = [f"{product}.weight" for product in products]

        def fold(weight: FloatArray) -> FloatArray:
            return self.rotation.apply(weight * gamma)

        largest_weight = np.max([np.abs(fold(self._weights[name])).max(axis=0) for name in names], axis=0)
        scale = smoothing_scale(self._maxima[norm], largest_weight, self._alpha)
        for name in names:
            self._edits[name] += [fold, partial(np.multiply, scale)]
        self._edits[f"{norm}.weight"].append(lambda _: np.reciprocal(scale))
        self.ranges[f"{norm}.weight"] = float((self._maxima[norm] / scale).max())

    def _share_value_scales(self, attention: str, config: Any) -> None:
        num_kv_heads, size = config.num_key_value_heads, head_size(config)
        by_value_head = (num_kv_heads, config.num_attention_heads // num_kv_heads, size)
        mixed = f"{attention}o_proj"
        largest = self._maxima[mixed].reshape(by_value_head).max(axis=1)
        largest_weight = np.abs(self._weights[f"{mixed}.weight"]).max(axis=0).reshape(by_value_head).max(axis=1)
        scale = smoothing_scale(largest, largest_weight, self._alpha)
        self.value_scales.append(scale.ravel())
        columns = np.repeat(scale[:, None], by_value_head[1], axis=1).ravel()
        self._edits[f"{mixed}.weight"].append(partial(np.multiply, columns))
        self._edits[f"{attention}v_proj.weight"].append(lambda weight: weight / scale.reshape(-1, 1))
        self._edits[f"{attention}v_proj.bias"].append(lambda bias: bias / scale.ravel())


def smoothing_scale(activation: FloatArray, weight: FloatArray, alpha: float) -> FloatArray:
    """SmoothQuant's factor of each channel, `activation^alpha / weight^(1-alpha)`; 1 where either is zero.

    `activation` and `weight` are float32 and of one shape, the largest magnitudes of a channel and of what it meets;
    `alpha` is 0 to 1.
    """
    live = (activation > 0) & (weight > 0)
    safe_activation, safe_weight = np.where(live, activation, 1), np.where(live, weight, 1)
    return (safe_activation**alpha / safe_weight ** (1 - alpha)).astype(np.float32)


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
        random = np.random.default_rng(_ROTATION_SEED)
        self.left = _orthogonal(rows, random)
        self.right = _orthogonal(size // rows, random)

    def apply(self, x: FloatArray) -> FloatArray:
        """`x R` along the last axis of (..., E) float32."""
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
