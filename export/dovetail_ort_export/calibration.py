"""How large the activations of a model become: transformers, hooks and a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail_ort_export.rotation import Rotation
from dovetail_ort_export.weights import float32_leaves
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.errors import SourceError


@torch.no_grad()
def activation_maxima(model: Any, texts: Iterable[TokenArray]) -> dict[str, FloatArray]:
    """Largest magnitude of each channel over all tokens, computed in float32.

    Args:
        model: transformers causal LM.
        texts: each (T,) int64, read by itself from position 0.

    Returns:
        By module name: what each block norm gives before its weight, rotated by `Rotation(E)`, (E,) float32; and what
        each output projection reads, (H * D,) float32.

    Raises:
        SourceError: an activation is not finite.
    """
    rotation = Rotation(model.config.hidden_size)
    maxima: dict[str, FloatArray] = {}

    def record(name: str, rows: FloatArray) -> None:
        largest = np.abs(rows).max(axis=0)
        if not np.isfinite(largest).all():
            raise SourceError(
                f"the activations of {name} must be finite, got {largest[~np.isfinite(largest)][0]}; "
                "the checkpoint may be damaged: export with --int8-format block"
            )
        maxima[name] = np.maximum(maxima[name], largest) if name in maxima else largest

    with float32_leaves(model), _hooks(model, rotation, record):
        for token_ids in texts:
            model(torch.from_numpy(token_ids)[None], use_cache=False)
    return maxima


@contextmanager
def _hooks(model: Any, rotation: Rotation, record: Any) -> Iterator[None]:
    def normalised(norm: Any, inputs: tuple[Tensor, ...], name: str) -> None:
        x = inputs[0][0].float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
        record(name, rotation.apply(x.numpy()))

    def mixed(_: Any, inputs: tuple[Tensor, ...], name: str) -> None:
        record(name, inputs[0][0].float().numpy())

    handles = []
    for name, module in model.named_modules():
        observe = {"input_layernorm": normalised, "post_attention_layernorm": normalised, "o_proj": mixed}.get(
            name.rpartition(".")[2]
        )
        if observe is not None:
            handles.append(
                module.register_forward_pre_hook(
                    lambda leaf, inputs, observe=observe, name=name: observe(leaf, inputs, name)
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
