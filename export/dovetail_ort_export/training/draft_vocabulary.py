"""The tokens that a drafter can draft: the frequent ones, so that its head is small (FR-Spec, arXiv 2502.14856)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import TokenArray


def draft_vocabulary(
    answers: Iterable[NDArray[np.int32]], eos_token_ids: Sequence[int], *, size: int, total: int
) -> TokenArray:
    """The most frequent tokens of some answers, the end tokens in any case, ascending.

    Args:
        answers: token ids, each (n,).
        eos_token_ids: always part of the result.
        size: how many tokens; 0, or more than there are, for all.
        total: V, tokens of the target.

    Returns:
        (Vd,) int64. Tokens that occur equally often enter by the lower id.
    """
    if size == 0 or size >= total:
        return np.arange(total)
    counts = np.bincount(np.fromiter(chain.from_iterable(answers), dtype=np.int64), minlength=total)
    counts[list(eos_token_ids)] = counts.max() + 1
    return np.sort(np.argsort(-counts, kind="stable")[:size])
