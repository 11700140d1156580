"""What the original model says of a text: transformers in float32, the oracle of every export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
    """Widen each leaf's parameters only while it runs, so that a bfloat16 model is never held in float32 as a whole.

    What a leaf gets back are its own tensors, not copies: those that a checkpoint's file is mapped to stay mapped.
    """
    handles = []
    for module in model.modules():
        if any(parameter.dtype != torch.float32 for parameter in module.parameters(recurse=False)):
            leaf = _WideLeaf(module)
            handles.append(module.register_forward_pre_hook(leaf.widen))
            handles.append(module.register_forward_hook(leaf.narrow, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _WideLeaf:
    """One module's parameters, swapped for float32 copies and back by the hooks of its forward."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = list(module.parameters(recurse=False))
        self._own: list[Tensor] = []

    def widen(self, *_: Any) -> None:
        self._own = [parameter.data for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.data = parameter.data.to(torch.float32)

    def narrow(self, *_: Any) -> None:
        for parameter, own in zip(self._parameters, self._own, strict=True):
            parameter.data = own
