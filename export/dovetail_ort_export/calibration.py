"""How large the activations and the cache of a model become: transformers, hooks and a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from dovetail_ort_export.equalization import Rotation
from dovetail_ort_export.weights import float32_leaves
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.errors import SourceError

Record = Callable[[str, FloatArray], None]
Hooks = Callable[[Record], Iterator[RemovableHandle]]


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

    def normalised(norm: Any, x: Tensor) -> FloatArray:
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
        return rotation.apply(x.numpy())

    def mixed(_: Any, x: Tensor) -> FloatArray:
        rows: FloatArray = x.numpy()
        return rows

    observed = {"input_layernorm": normalised, "post_attention_layernorm": normalised, "o_proj": mixed}

    def hooks(record: Record) -> Iterator[RemovableHandle]:
        for name, module in model.named_modules():
            if (rows := observed.get(name.rpartition(".")[2])) is not None:
                yield module.register_forward_pre_hook(
                    lambda leaf, inputs, name=name, rows=rows: record(name, rows(leaf, inputs[0][0].float()))
                )

    return _maxima(model, texts, hooks, "activations", "export with --int8-format block")


def cache_maxima(model: Any, texts: Iterable[TokenArray]) -> dict[str, FloatArray]:
    """Largest magnitude of each channel of keys and values, measured in the same way.

    Returns:
        (Hkv * D,) float32 by `{block}.key` and `{block}.value`. Keys are those in the cache, with rotary embedding:
        channels i and i + D / 2 of a head turn as a pair, so that both have the pair's largest length.

    Raises:
        SourceError: a key or value is not finite.
    """
    scaling = model.model.rotary_emb.attention_scaling

    def hooks(record: Record) -> Iterator[RemovableHandle]:
        for index, layer in enumerate(model.model.layers):
            attention = layer.self_attn
            keys = getattr(attention, "k_norm", attention.k_proj)
            yield keys.register_forward_hook(
                lambda _, __, output, name=f"{index}.key", size=attention.head_dim: record(
                    name, (_pair_lengths(output[0].float(), size) * scaling).numpy()
                )
            )
            yield attention.v_proj.register_forward_hook(
                lambda _, __, output, name=f"{index}.value": record(name, output[0].float().numpy())
            )

    return _maxima(model, texts, hooks, "cache", "leave quantize-cache out of the recipe")


@torch.no_grad()
def _maxima(model: Any, texts: Iterable[TokenArray], hooks: Hooks, what: str, remedy: str) -> dict[str, FloatArray]:
    maxima: dict[str, FloatArray] = {}

    def record(name: str, rows: FloatArray) -> None:
        largest = np.abs(rows).max(axis=0)
        if not np.isfinite(largest).all():
            raise SourceError(
                f"the {what} of {name} must be finite, got {largest[~np.isfinite(largest)][0]}; "
                f"the checkpoint may be damaged: {remedy}"
            )
        maxima[name] = np.maximum(maxima[name], largest) if name in maxima else largest

    with float32_leaves(model), ExitStack() as hooked:
        for handle in hooks(record):
            hooked.enter_context(handle)
        for token_ids in texts:
            model(torch.from_numpy(token_ids)[None], use_cache=False)
    return maxima


def _pair_lengths(keys: Tensor, size: int) -> Tensor:
    """(T, Hkv * D): of each channel and the one it turns with; `keys` are (T, Hkv * D) or (T, Hkv, D)."""
    halves = keys.reshape(len(keys), -1, 2, size // 2)
    lengths: Tensor = halves.norm(dim=2, keepdim=True).expand_as(halves).flatten(1)
    return lengths
