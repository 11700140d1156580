"""How large a model's keys and values become while it reads a text. It knows no graph and no weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dovetail_ort_export.source.causal_lm import CausalLM
from dovetail_ort_runtime.arrays import FloatArray

# The largest number of half precision.
LARGEST_HALF: Final = 65504.0
# One text shows only a part of a model's range: other texts may give several times larger numbers.
_ROOM: Final = 4.0


@contextmanager
def measured_cache(model: CausalLM) -> Iterator[dict[str, FloatArray]]:
    """Within it, every text that a transformers causal LM reads adds to what is measured.

    Yields:
        Largest magnitude of each channel, (Hkv * D,) float32, by `{block}.key` and `{block}.value`. Keys are those in
        the cache, with rotary embedding: channels i and i + D / 2 of a head turn as a pair, so that both have the
        pair's largest length.
    """
    maxima: dict[str, FloatArray] = {}
    scaling = float(model.model.rotary_emb.attention_scaling)
    with ExitStack() as hooks:
        for index, layer in enumerate(model.model.layers):
            attention = layer.self_attn
            keys = getattr(attention, "k_norm", attention.k_proj)
            hooks.enter_context(_measured(keys, maxima, f"{index}.key", _lengths_of(int(attention.head_dim), scaling)))
            hooks.enter_context(_measured(attention.v_proj, maxima, f"{index}.value", _unchanged))
        yield maxima


def largest_of(maxima: Mapping[str, FloatArray]) -> float:
    """The largest number of all channels of all blocks; NaN if there is any NaN."""
    return float(np.max([largest.max() for largest in maxima.values()]))


def fits_half(maxima: Mapping[str, FloatArray]) -> bool:
    """Whether half precision holds the measured numbers and numbers four times as large; never for NaN."""
    return largest_of(maxima) * _ROOM <= LARGEST_HALF


def _measured(
    module: nn.Module, maxima: dict[str, FloatArray], name: str, rows_of: Callable[[Tensor], Tensor]
) -> RemovableHandle:
    """A hook that measures a module's output until it is closed.

    Args:
        module: torch module whose output is (1, T, ...).
        maxima: dictionary that gets the largest magnitudes.
        name: key in `maxima`.
        rows_of: function from (T, channels) float32 to the rows whose magnitudes count.
    """

    def record(_: Any, __: Any, output: Tensor) -> None:
        largest: FloatArray = rows_of(output[0].detach().float().flatten(1)).abs().amax(dim=0).numpy()
        maxima[name] = np.maximum(maxima.get(name, largest), largest)

    return module.register_forward_hook(record)


def _unchanged(values: Tensor) -> Tensor:
    return values


def _lengths_of(head_size: int, scaling: float) -> Callable[[Tensor], Tensor]:
    """A function from keys (T, Hkv * D) to the length of each pair of channels, at both places, times a factor."""

    def lengths(keys: Tensor) -> Tensor:
        pairs = keys.reshape(len(keys), -1, 2, head_size // 2)
        found: Tensor = pairs.norm(dim=2, keepdim=True).expand_as(pairs).flatten(1)
        return found * scaling

    return lengths
