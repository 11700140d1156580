"""What the original model says: transformers' own logits, in float32. It knows no graph."""

from __future__ import annotations

from typing import Any

import torch

from dovetail_ort_export.source.weights import float32_leaves
from dovetail_ort_runtime.arrays import FloatArray, TokenArray


@torch.no_grad()
def reference_logits(model: Any, token_ids: TokenArray, positions: TokenArray | None = None) -> FloatArray:
    """Logits of a transformers causal LM in float32, whatever the type of its parameters.

    Args:
        model: causal LM in evaluation mode.
        token_ids: (T,) int64.
        positions: (T,) int64, where the tokens stand; from 0 on if None.

    Returns:
        (T, V) float32.
    """
    rows = torch.from_numpy(token_ids)[None]
    places = torch.arange(len(token_ids)) if positions is None else torch.from_numpy(positions)
    # Without a mask transformers takes a gap between positions for the border of two texts.
    mask = torch.ones_like(rows)
    with float32_leaves(model):
        result = model(rows, position_ids=places[None], attention_mask=mask, use_cache=False)
    logits: FloatArray = result.logits[0].float().numpy()
    return logits
