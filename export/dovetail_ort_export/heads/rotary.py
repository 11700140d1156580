"""Rotary positions of a head in torch: tables by its settings, and the rotation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from dovetail_ort_export.source.rotary import Rotary as RotarySettings
from dovetail_ort_runtime.errors import SourceError


@dataclass(frozen=True, slots=True, eq=False)
class RotaryTables:
    """Rotary embedding of positions 0 to T - 1.

    Attributes:
        cos: (max_context, D / 2) float32.
        sin: (max_context, D / 2) float32.
    """

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Turn each pair of channels i and i + D / 2 of `x` (B, heads, T, D) by the angle of its position."""
        num_positions = x.shape[2]
        cos = self.cos[:num_positions]
        sin = self.sin[:num_positions]
        first, second = x.chunk(2, dim=-1)
        turned = (first * cos - second * sin, second * cos + first * sin)
        return torch.cat(turned, dim=-1).to(x.dtype)


@torch.no_grad()
def rotary_tables(rotary: RotarySettings, head_size: int, max_positions: int, max_context: int) -> RotaryTables:
    """Cosines and sines of positions 0 to `max_context` - 1 by a head's own settings.

    Args:
        rotary: rotary settings of the head.
        head_size: D.
        max_positions: `max_position_embeddings` of the head, which some kinds of rotation compute with.
        max_context: number of positions of the target, which may be more than the head was made for.

    Raises:
        SourceError: the angles would change with the length of the text.
    """
    if rotary.kind == "dynamic" and max_context > max_positions:
        raise SourceError(
            f"a head with rope_type dynamic reaches {max_positions} positions, and the target has {max_context}; "
            f"export the target with --max-context {max_positions}"
        )
    config = LlamaConfig(
        hidden_size=head_size,
        num_attention_heads=1,
        head_dim=head_size,
        max_position_embeddings=max_positions,
        rope_theta=rotary.theta,
        rope_scaling=rotary.scaling(max_context, max_positions),
    )
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(max_context)[None])
    half = head_size // 2
    # transformers has every value twice.
    return RotaryTables(cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())
