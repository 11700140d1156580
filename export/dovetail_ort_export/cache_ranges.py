"""How large the keys and values of a model become: transformers, hooks and a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail_ort_export.weights import float32_leaves
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.errors import SourceError

Record = Callable[[str, Tensor], None]


@torch.no_grad()
def cache_maxima(model: Any, texts: Iterable[TokenArray]) -> dict[str, FloatArray]:
    """Largest magnitude of each channel of keys and values over all tokens, computed in float32.

    Args:
        model: transformers causal LM.
        texts: each (T,) int64, read by itself from position 0.

    Returns:
        (Hkv * D,) float32 by `{block}.key` and `{block}.value`. Keys are those in the cache, with rotary embedding:
        channels i and i + D / 2 of a head turn as a pair, so that both have the pair's largest length.

    Raises:
        SourceError: a key or value is not finite.
    """
    maxima: dict[str, FloatArray] = {}

    def record(name: str, rows: Tensor) -> None:
        largest = rows.abs().amax(dim=0).numpy()
        if not np.isfinite(largest).all():
            raise SourceError(
                f"the cache of {name} must be finite, got {largest[~np.isfinite(largest)][0]}; "
                "the checkpoint may be damaged: leave quantize-cache out of the recipe"
            )
        maxima[name] = np.maximum(maxima[name], largest) if name in maxima else largest

    with float32_leaves(model), _hooks(model, record):
        for token_ids in texts:
            model(torch.from_numpy(token_ids)[None], use_cache=False)
    return maxima


@contextmanager
def _hooks(model: Any, record: Record) -> Iterator[None]:
    rotary = model.model.rotary_emb
    handles = []
    for index, layer in enumerate(model.model.layers):
        attention = layer.self_attn

        def keys(_: Any, __: Any, output: Tensor, name: str = f"{index}.key", size: int = attention.head_dim) -> None:
            record(name, _pair_lengths(output[0].float(), size) * rotary.attention_scaling)

        def values(_: Any, __: Any, output: Tensor, name: str = f"{index}.value") -> None:
            record(name, output[0].float())

        handles.append(getattr(attention, "k_norm", attention.k_proj).register_forward_hook(keys))
        handles.append(attention.v_proj.register_forward_hook(values))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pair_lengths(keys: Tensor, size: int) -> Tensor:
    """(T, Hkv * D): of each channel and the one it turns with; `keys` are (T, Hkv * D) or (T, Hkv, D)."""
    halves = keys.reshape(len(keys), -1, 2, size // 2)
    lengths: Tensor = halves.norm(dim=2, keepdim=True).expand_as(halves).flatten(1)
    return lengths
