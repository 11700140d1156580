"""How likely the target held a token, and what it held likeliest in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.top_k import top_k

MOST_ALTERNATIVES: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities under the target's own distribution.

    That is the softmax of the logits as they leave the graph, in float64: before repetition penalty, temperature,
    truncation and constraint, whichever of them took part in the choice.

    Attributes:
        token_id: the token of the answer.
        logprob: its own.
        top: the likeliest tokens and theirs, likeliest first, ties to the lower id; `token_id` may be among them.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, logits: FloatArray, token_id: int, num_alternatives: int) -> TokenLogprobs:
        """Those of one token.

        Args:
            logits: (V,) float32, the row that chose it.
            token_id: the token.
            num_alternatives: how many tokens `top` has, V at most.
        """
        shifted = logits.astype(np.float64) - logits.max()
        total = np.log(np.exp(shifted).sum())
        likeliest = top_k(logits, min(num_alternatives, len(logits)))
        return cls(
            token_id=token_id,
            logprob=float(shifted[token_id] - total),
            top=tuple(zip(likeliest.tolist(), (shifted[likeliest] - total).tolist(), strict=True)),
        )
