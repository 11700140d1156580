"""The drafter's trainable part: feature and embedding fused, then decoder blocks of the target's shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from dovetail_ort_export.training.training_options import MAX_BLOCKS
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.manifest import FUSIONS


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """What decides the shapes of a draft head's weights, and the numbers that its operators need.

    Attributes:
        fusion: `gating` (Dovetail's Dynamic Gating Fusion) or `concatenation` (EAGLE's).
        num_blocks: M, 1 to 6.
        hidden_size: E, the target's; so are the following four.
        num_heads: H.
        num_kv_heads: Hkv.
        head_size: D.
        intermediate_size: inner width of a block's MLP.
        norm_epsilon: of every RMSNorm.
    """

    fusion: str
    num_blocks: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    norm_epsilon: float

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise InputError(f"fusion must be one of {', '.join(FUSIONS)}, got {self.fusion!r}")
        if not 1 <= self.num_blocks <= MAX_BLOCKS:
            raise InputError(f"blocks must be between 1 and {MAX_BLOCKS}, got {self.num_blocks}")


@dataclass(slots=True)
class Memory:
    """One block's keys and values of the steps so far, (B, Hkv, T, D) each.

    Attributes:
        rotate: turns queries and keys (B, heads, T, D) by their positions.
    """

    rotate: Callable[[Tensor], Tensor]
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


class DraftAttention(nn.Module):
    """Grouped-query attention with rotary positions, for a chain behind every position at once.

    A chain that starts behind position `s` has read true features up to `s`; its step `j` stands at position `s + j`
    and reads the feature that step `j - 1` predicted. So in step `j` (0 reads true features) a query at position `t`
    sees

        the keys of step 0 at positions up to t - j            (true features)
        the keys of step i at position t - (j - i), 1 <= i <= j (the chain's own)

    Example, j = 2, t = 7: true keys 0 to 5, step 1's key at 6, its own key at 7.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.head_size, self.num_repeats = config.head_size, config.num_heads // config.num_kv_heads
        width, kv_width = config.num_heads * self.head_size, config.num_kv_heads * self.head_size
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
        return x.view(*x.shape[:2], -1, self.head_size).transpose(1, 2)

    def _first_step(self, query: Tensor, memory: Memory) -> Tensor:
        return functional.scaled_dot_product_attention(
            query, memory.keys[0], memory.values[0], is_causal=True, scale=self.scaling, enable_gqa=True
        )

    def _later_step(self, query: Tensor, memory: Memory) -> Tensor:
        step, length = len(memory.keys) - 1, query.shape[2]
        own_keys, own_values = self._own(memory.keys[1:]), self._own(memory.values[1:])
        # Positions before `step` have no true key in reach; they see the first one, and no loss looks at them.
        hidden = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1 - step)
        hidden[:, 0] = False
        scores = (query @ self._repeat(memory.keys[0]).transpose(-1, -2)).masked_fill(hidden, -torch.inf)
        own_scores = (query[..., None, :] * own_keys).sum(-1)
        weights = functional.softmax(torch.cat([scores, own_scores], dim=-1).float() * self.scaling, dim=-1)
        weights = weights.to(query.dtype)
        own_mixed = (weights[..., length:, None] * own_values).sum(-2)
        return weights[..., :length] @ self._repeat(memory.values[0]) + own_mixed

    def _own(self, steps: list[Tensor]) -> Tensor:
        """(B, Hkv, T, D) of each step as (B, H, T, steps, D): the latest first, the one before from a position back."""
        length = steps[0].shape[2]
        moved = [functional.pad(x, (0, 0, shift, 0))[:, :, :length] for shift, x in enumerate(reversed(steps))]
        return self._repeat(torch.stack(moved, dim=3))

    def _repeat(self, x: Tensor) -> Tensor:
        """(B, Hkv, ...) for each of the H query heads."""
        return x.repeat_interleave(self.num_repeats, dim=1)


class GatingFusion(nn.Module):
    """Dynamic Gating Fusion (Dovetail, arXiv 2412.18934): one gate per channel weighs feature against embedding.

    h1 = f W1, h2 = SiLU(RMSNorm(e) W2), z = sigmoid([h1 ; h2] Wz), x = z h1 + (1 - z) h2.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.norm = LlamaRMSNorm(size, config.norm_epsilon)
        self.embedding_proj = nn.Linear(size, size, bias=False)
        self.feature_proj = nn.Linear(size, size, bias=False)
        self.gate_proj = nn.Linear(2 * size, size, bias=False)
        for weight in (self.feature_proj.weight, self.embedding_proj.weight, self.gate_proj.weight):
            nn.init.xavier_uniform_(weight)

    def embed(self, embeddings: Tensor) -> Tensor:
        """h2 (..., E), which depends on a token alone."""
        embedded: Tensor = functional.silu(self.embedding_proj(self.norm(embeddings)))
        return embedded

    def mix(self, features: Tensor, embedded: Tensor) -> Tensor:
        """X (..., E)."""
        feature = self.feature_proj(features)
        gate = torch.sigmoid(self.gate_proj(torch.cat((feature, embedded), dim=-1)))
        mixed: Tensor = embedded + gate * (feature - embedded)
        return mixed


class ConcatenationFusion(nn.Module):
    """EAGLE's fusion (arXiv 2401.15077), x = [e ; f] W + b, its product split by what it reads."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.embedding_proj = nn.Linear(size, size)
        self.feature_proj = nn.Linear(size, size, bias=False)
        # Xavier's bound of the whole (E, 2E) matrix.
        for weight in (self.embedding_proj.weight, self.feature_proj.weight):
            nn.init.uniform_(weight, -((6 / (3 * size)) ** 0.5), (6 / (3 * size)) ** 0.5)
        nn.init.zeros_(self.embedding_proj.bias)

    def embed(self, embeddings: Tensor) -> Tensor:
        """The part that depends on a token alone, (..., E)."""
        embedded: Tensor = self.embedding_proj(embeddings)
        return embedded

    def mix(self, features: Tensor, embedded: Tensor) -> Tensor:
        """X (..., E)."""
        mixed: Tensor = embedded + self.feature_proj(features)
        return mixed


class DraftBlock(nn.Module):
    """A decoder block; the first one of a head has no input norm."""

    def __init__(self, config: HeadConfig, *, has_input_norm: bool) -> None:
        super().__init__()
        size, epsilon = config.hidden_size, config.norm_epsilon
        self.input_layernorm = LlamaRMSNorm(size, epsilon) if has_input_norm else nn.Identity()
        self.self_attn = DraftAttention(config)
        self.post_attention_layernorm = LlamaRMSNorm(size, epsilon)
        self.mlp = LlamaMLP(
            LlamaConfig(hidden_size=size, intermediate_size=config.intermediate_size, hidden_act="silu")
        )
        for name, weight in self.named_parameters():
            if name.endswith("proj.weight"):
                nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, S, E) in, (B, S, E) out; `memory` is the block's own."""
        x = x + self.self_attn(self.input_layernorm(x), memory)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class DraftHead(nn.Module):
    """Fusion and M blocks, without a final norm: what leaves the last block is the predicted feature.

    Attributes:
        config: its dimensions.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.fusion = GatingFusion(config) if config.fusion == "gating" else ConcatenationFusion(config)
        self.layers = nn.ModuleList(DraftBlock(config, has_input_norm=index > 0) for index in range(config.num_blocks))

    def forward(self, features: Tensor, embedded: Tensor, memories: list[Memory]) -> Tensor:
        """Predicted features one position on.

        Args:
            features: (B, S, E), the target's hidden states or the head's own predictions of them.
            embedded: (B, S, E), `fusion.embed` of the token after each.
            memories: what each block attends to.
        """
        x: Tensor = self.fusion.mix(features, embedded)
        for layer, memory in zip(self.layers, memories, strict=True):
            x = layer(x, memory)
        return x
