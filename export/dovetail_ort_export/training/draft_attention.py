"""Attention of a draft head in training: every position drafts at once, each seeing what it will see when it is used.

A chain that starts behind position `s` has read true features up to `s`; its step `j` stands at position `s + j` and
reads the feature that step `j - 1` predicted. So in step `j` (0 reads true features) a query at position `t` sees

    the keys of step 0 at positions up to t - j            (true features)
    the keys of step i at position t - (j - i), 1 <= i <= j (the chain's own)

Example, j = 2, t = 7: true keys 0 to 5, step 1's key at 6, its own key at 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from dovetail_ort_export.training.head_config import HeadConfig

Rotate = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class Memory:
    """One block's keys and values of the steps so far, (B, Hkv, T, D) each.

    Attributes:
        rotate: turns queries and keys (B, heads, T, D) by their positions.
    """

    rotate: Rotate
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


class DraftAttention(nn.Module):
    """Grouped-query attention with rotary positions, one unrolled step at a time."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_size = config.num_heads, config.num_kv_heads, config.head_size
        width, kv_width = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        self.scaling = self.head_size**-0.5
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, T, E) in, (B, T, E) out; the step's keys and values join the memory."""
        query = memory.rotate(self._heads(self.q_proj(x)))
        memory.keys.append(memory.rotate(self._heads(self.k_proj(x))))
        memory.values.append(self._heads(self.v_proj(x)))
        mixed = self._first_step(query, memory) if len(memory.keys) == 1 else self._later_step(query, memory)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, -1, self.head_size).transpose(1, 2)

    def _first_step(self, query: Tensor, memory: Memory) -> Tensor:
        return functional.scaled_dot_product_attention(
            query, memory.keys[0], memory.values[0], is_causal=True, scale=self.scaling, enable_gqa=True
        )

    def _later_step(self, query: Tensor, memory: Memory) -> Tensor:
        step, length = len(memory.keys) - 1, query.shape[2]
        shifts = range(step - 1, -1, -1)
        own_keys = [self._repeat(_shifted(key, shift)) for key, shift in zip(memory.keys[1:], shifts, strict=True)]
        own_values = [
            self._repeat(_shifted(value, shift)) for value, shift in zip(memory.values[1:], shifts, strict=True)
        ]
        # Positions before `step` have no true key in reach; they see the first one, and no loss looks at them.
        hidden = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1 - step)
        hidden[:, 0] = False
        scores = query @ self._repeat(memory.keys[0]).transpose(-1, -2)
        scores = scores.masked_fill(hidden, -torch.inf)
        own_scores = [(query * key).sum(-1, keepdim=True) for key in own_keys]
        weights = functional.softmax(torch.cat([scores, *own_scores], dim=-1).float() * self.scaling, dim=-1)
        weights = weights.to(query.dtype)
        mixed = weights[..., :length] @ self._repeat(memory.values[0])
        for index, value in enumerate(own_values):
            mixed = mixed + weights[..., length + index : length + index + 1] * value
        return mixed

    def _repeat(self, x: Tensor) -> Tensor:
        """(B, Hkv, T, D) for each of the H query heads."""
        return x.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1)


def _shifted(x: Tensor, shift: int) -> Tensor:
    """`x` (B, Hkv, T, D) moved `shift` positions on, zeros in front."""
    return functional.pad(x, (0, 0, shift, 0))[:, :, : x.shape[2]]
