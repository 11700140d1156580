"""What the original model says of a text: transformers in float32, the oracle of every export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dovetail_ort_runtime.arrays import FloatArray, TokenArray


@torch.no_grad()
def reference_logits(model: Any, token_ids: TokenArray) -> FloatArray:
    """Logits of `model` at each token, computed in float32 whatever the type of its parameters.

    Args:
        model: transformers causal LM.
        token_ids: (T,) int64.

    Returns:
        (T, V) float32.
    """
    with float32_leaves(model):
        logits: FloatArray = model(torch.from_numpy(token_ids)[None], use_cache=False).logits[0].float().numpy()
    return logits


@contextmanager
def float32_leaves(model: nn.Module) -> Iterator[None]:
    """Widen each leaf's parameters only while it runs, so that a bfloat16 model is never held in float32 as a whole."""
    handles = []
    for module in model.modules():
        dtype = next((parameter.dtype for parameter in module.parameters(recurse=False)), torch.float32)
        if dtype != torch.float32:
            handles.append(module.register_forward_pre_hook(lambda leaf, _: leaf.to(torch.float32) and None))
            handles.append(module.register_forward_hook(lambda leaf, _, __, dtype=dtype: leaf.to(dtype) and None))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
