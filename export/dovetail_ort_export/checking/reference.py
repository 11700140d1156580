"""The original model's logits, computed by transformers in float32. It knows no graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dovetail_ort_export.source.causal_lm import CausalLM
from dovetail_ort_runtime.arrays import FloatArray, TokenArray


@torch.no_grad()
def reference_logits(model: CausalLM, token_ids: TokenArray, positions: TokenArray | None = None) -> FloatArray:
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


@contextmanager
def float32_leaves(model: CausalLM) -> Iterator[None]:
    """Widen each leaf module's parameters while it runs, so that a whole bfloat16 model is never held in float32.

    Afterwards a leaf has its own tensors again, not copies of them, so tensors that are mapped from a file stay mapped.
    """
    with ExitStack() as hooks:
        for module in model.modules():
            if any(parameter.dtype != torch.float32 for parameter in module.parameters(recurse=False)):
                leaf = _WideLeaf(module)
                hooks.enter_context(module.register_forward_pre_hook(leaf.widen))
                hooks.enter_context(module.register_forward_hook(leaf.narrow, always_call=True))
        yield


class _WideLeaf:
    """One module's parameters, which the hooks of its forward swap for float32 copies and back."""

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
