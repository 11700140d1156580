"""Where the tokens of a check stand in the text."""

from __future__ import annotations

from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import TokenArray

_GROUP: Final = 4
# Float32 angles and frequencies, computed in two right ways, differ by up to 1e-8 of the logits' spread per position
# (measured: at 4,000 positions 4e-6 with SmolLM2-135M, up to 3.4e-5 with random models of each family; at 64,000 over
# 1e-4). So no token stands farther out than the check of a window of 4,096 needs.
_FARTHEST: Final = 4096 + 512


def witness_positions(max_context: int) -> TokenArray:
    """Positions (T,) of a text that shows rotary settings and windows, all under `max_context`.

    Three groups of four: at the start, at a third, and at the end of the context or of its first 4,608 positions. With
    less than 12 positions they meet.

    >>> witness_positions(512).tolist()
    [0, 1, 2, 3, 169, 170, 171, 172, 508, 509, 510, 511]
    """
    last = max(min(max_context, _FARTHEST) - _GROUP, 0)
    groups = [start + np.arange(_GROUP, dtype=np.int64) for start in (0, last // 3, last)]
    positions = np.unique(np.concatenate(groups))
    return positions[positions < max_context]
