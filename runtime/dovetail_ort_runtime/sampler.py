"""From a row of target logits to a token: penalty, constraint, temperature, truncation, then argmax or one random draw.

It knows nothing of drafts.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray, ProbabilityArray, TokenArray
from dovetail_ort_runtime.errors import BundleError, InputError
from dovetail_ort_runtime.options import ConstraintState, SamplingOptions

SeenArray: TypeAlias = NDArray[np.bool_]


class Sampler:
    """Chooses the tokens of one sequence.

    The transformations are those of transformers' logits processors, with one difference: of equal tokens the lower id
    comes first. So top-k keeps exactly k tokens, where transformers keeps all that equal the k-th.

    Args:
        options: the transformations of the logits.
        constraint: the state of a rule that excludes tokens before one is chosen; None allows all.

    Attributes:
        options: the transformations of the logits.
    """

    def __init__(self, options: SamplingOptions, constraint: ConstraintState | None = None) -> None:
        self.options = options
        self._constraint = constraint
        self._generator = np.random.default_rng(options.seed)

    def choose(self, logits: FloatArray, seen: SeenArray | None = None) -> int:
        """The next token: that of the highest logit if greedy, otherwise one drawn with one uniform number.

        Args:
            logits: (V,) float32, the target's logits of one row.
            seen: (V,) bool, whether a token stands in prompt or answer; needed for a repetition penalty only.

        Raises:
            BundleError: the highest logit is NaN or infinite.
            InputError: the constraint allows no token.
        """
        if self.options.is_greedy:
            return _highest(self._admitted(logits, seen))
        token_ids, weights = self._candidates(logits, seen)
        return int(token_ids[self.draw(weights)])

    def distribution(self, logits: FloatArray, seen: SeenArray | None = None) -> ProbabilityArray:
        """The probabilities, (V,) float64, that `choose` draws from unless it is greedy; arguments as in `choose`."""
        token_ids, weights = self._candidates(logits, seen)
        probabilities = np.zeros(len(logits))
        probabilities[token_ids] = weights / weights.sum()
        return probabilities

    def advance(self, token_id: int) -> None:
        """Tell the constraint that a token is kept."""
        if self._constraint is not None:
            self._constraint.advance(token_id)

    def draw(self, weights: ProbabilityArray) -> int:
        """An index drawn in proportion to `weights`, (n,) float64, by inverting their cumulative sum at one uniform."""
        cumulative = np.cumsum(weights)
        # A uniform is at most 1 - 2**-53, so the product rounds below the total and some entry lies above it.
        return int(np.searchsorted(cumulative, self.uniform() * cumulative[-1], side="right"))

    def uniform(self) -> float:
        """The generator's next number in [0, 1)."""
        return self._generator.random()

    def _penalised(self, logits: FloatArray, seen: SeenArray | None) -> FloatArray:
        """The logits, (V,) float32, after the repetition penalty; the array itself without a penalty."""
        penalty = self.options.repetition_penalty
        if penalty == 1:
            return logits
        if seen is None:
            raise InputError("a repetition penalty needs the array seen, got None")
        token_ids = np.flatnonzero(seen)
        scores = logits[token_ids]
        penalised = logits.copy()
        penalised[token_ids] = np.where(scores > 0, scores / penalty, scores * penalty)
        return penalised

    def _admitted(self, logits: FloatArray, seen: SeenArray | None) -> FloatArray:
        """The logits, (V,) float32, with minus infinity where the constraint excludes the token."""
        logits = self._penalised(logits, seen)
        if self._constraint is None:
            return logits
        allowed = self._constraint.allowed()[: len(logits)]
        if not allowed.any():
            raise InputError(f"the constraint allows none of the {len(logits)} tokens; check its rules")
        admitted = np.full_like(logits, -np.inf)
        np.copyto(admitted[: len(allowed)], logits[: len(allowed)], where=allowed)
        return admitted

    def _candidates(self, logits: FloatArray, seen: SeenArray | None) -> tuple[TokenArray, ProbabilityArray]:
        """Ids of the tokens that are kept, (n,) int64, ascending, and their weights, (n,) float64, the highest being 1.

        Weights are probabilities before they are divided by their sum.
        """
        options = self.options
        logits = self._admitted(logits, seen)
        highest = logits[_highest(logits)]
        keeps_all = not 0 < options.top_k < len(logits)
        token_ids = np.arange(len(logits)) if keeps_all else np.sort(top_k(logits, options.top_k))
        with np.errstate(over="ignore"):  # a temperature near 0 leaves only the highest
            weights = np.exp((logits[token_ids].astype(np.float64) - highest) / options.temperature)
        if options.top_p < 1:
            kept = _top_p(weights, options.top_p)
            token_ids = token_ids[kept]
            weights = weights[kept]
        if options.min_p > 0:
            kept = np.flatnonzero(weights >= options.min_p)
            token_ids = token_ids[kept]
            weights = weights[kept]
        return token_ids, weights


def top_k(logits: FloatArray, k: int) -> TokenArray:
    """Ids of the highest logits, (k,) int64, highest first, of equal ones the lower id first.

    Args:
        logits: (V,) float32.
        k: number of ids, 0 to V.
    """
    if k == 0:
        return np.empty(0, dtype=np.int64)
    # The k blocks with the highest maxima each hold a logit no lower than the k-th maximum, so no lower logit can be
    # among the k highest. This is ten times faster than partitioning all logits.
    maxima = np.maximum.reduceat(logits, np.arange(0, len(logits), max(1, len(logits) // (4 * k))))
    contenders = np.flatnonzero(logits >= np.partition(maxima, -k)[-k])
    return contenders[np.argsort(-logits[contenders], kind="stable")[:k]]


def _highest(logits: FloatArray) -> int:
    token_id = int(np.argmax(logits))
    # argmax stops at a NaN, so this one element shows whether there is any.
    if not math.isfinite(logits[token_id]):
        raise BundleError(
            f"the highest logit must be finite, got {logits[token_id]} for token {token_id}; "
            "the target graph overflows here: export it again or take another precision"
        )
    return token_id


def _top_p(weights: ProbabilityArray, top_p: float) -> TokenArray:
    """Indices, ascending, of the smallest set of highest weights with at least `top_p` of the sum."""
    total = weights.sum()
    # All weights below (1 - top_p) * total / n together are less than what may be left out, so they need no sorting.
    # Half of that bound is safe from rounding.
    contenders = np.flatnonzero(weights >= 0.5 * (1 - top_p) * total / len(weights))
    order = contenders[np.argsort(-weights[contenders], kind="stable")]
    count = int(np.searchsorted(np.cumsum(weights[order]), top_p * total)) + 1
    return np.sort(order[:count])
