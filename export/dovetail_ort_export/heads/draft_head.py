"""The drafter's trainable part: feature and embedding fused, then decoder blocks of the target's shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from dovetail_ort_export.heads.config import BlockConfig, HeadConfig


@dataclass(slots=True)
class BlockCache:
    """The keys and values of one block in all steps so far.

    Attributes:
        rotate: function that turns keys and queries (B, heads, T, D) by the angles of their positions.
        keys: (B, Hkv, T, D) of each step, turned.
        values: (B, Hkv, T, D) of each step.
    """

    rotate: Callable[[Tensor], Tensor]
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


class DraftAttention(nn.Module):
    """Grouped-query attention with rotary positions, for a chain from every position at once.

    Step `j` of the chain from position `s` stands at position `s + j`. Step 0 reads true features, and each later step
    reads the feature that the step before predicted. So in step `j` a query at position `t` sees

        the keys of step 0 at positions up to t - j            (true features)
        the keys of step i at position t - (j - i), 1 <= i <= j (the chain's own)

    Example: with j = 2 and t = 7 it sees the true keys 0 to 5, the key of step 1 at 6, and its own key at 7.
    """

    def __init__(self, config: BlockConfig, input_size: int) -> None:
        super().__init__()
        self.head_size = config.head_size
        width = config.num_heads * self.head_size
        kv_width = config.num_kv_heads * self.head_size
        self.scaling = self.head_size**-0.5
        self.q_proj = nn.Linear(input_size, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(input_size, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(input_size, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=config.output_bias)
        if config.qk_norm:
            self.q_norm = LlamaRMSNorm(config.head_size, config.norm_epsilon)
            self.k_norm = LlamaRMSNorm(config.head_size, config.norm_epsilon)

    def forward(self, x: Tensor, cache: BlockCache) -> Tensor:
        """Attention of one step over `x` (B, T, width of its input), to (B, T, E). Keys and values join the cache."""
        query = self._heads(self.q_proj(x))
        key = self._heads(self.k_proj(x))
        if hasattr(self, "q_norm"):
            query = self.q_norm(query)
            key = self.k_norm(key)
        query = cache.rotate(query)
        cache.keys.append(cache.rotate(key))
        cache.values.append(self._heads(self.v_proj(x)))
        mixed = functional.scaled_dot_product_attention(
            query,
            torch.cat(cache.keys, dim=2),
            torch.cat(cache.values, dim=2),
            attn_mask=_visible(len(cache.keys), x.shape[1], x.device),
            scale=self.scaling,
            enable_gqa=True,
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, heads * D) to (B, heads, T, D)."""
        return x.view(*x.shape[:2], -1, self.head_size).transpose(1, 2)


def _visible(num_steps: int, length: int, device: torch.device) -> Tensor:
    """(T, steps * T) bool, which keys of each step the queries of the last step see."""
    step = num_steps - 1
    places = torch.arange(length, device=device)
    distance = places[:, None] - places
    true_keys = distance >= step
    # A position before `step` has no true key to see. It sees the first one, and no loss looks at it.
    true_keys[:, 0] = True
    own_keys = [distance == step - own for own in range(1, num_steps)]
    return torch.cat([true_keys, *own_keys], dim=1)


def gated_mlp(config: BlockConfig) -> LlamaMLP:
    """The MLP of a block: down(silu(gate(x)) * up(x))."""
    return LlamaMLP(
        LlamaConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            mlp_bias=config.mlp_bias,
            num_attention_heads=1,  # any size is a multiple of it, which transformers checks
        )
    )


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
        """The part h2 (..., E) of embeddings (..., E), which depends on a token alone."""
        return functional.silu(self.embedding_proj(self.norm(embeddings)))

    def mix(self, features: Tensor, embedded: Tensor) -> Tensor:
        """The fusion x (..., E) of features (..., E) and what `embed` gave for the token after each."""
        feature = self.feature_proj(features)
        gate = torch.sigmoid(self.gate_proj(torch.cat((feature, embedded), dim=-1)))
        mixed: Tensor = embedded + gate * (feature - embedded)
        return mixed


class ConcatenationFusion(nn.Module):
    """EAGLE's fusion (arXiv 2401.15077): x = [e ; f] W + b, as one product over e and one over f."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.embedding_proj = nn.Linear(size, size)
        self.feature_proj = nn.Linear(size, size, bias=False)
        # Xavier's bound of the whole (E, 2E) matrix.
        for weight in (self.embedding_proj.weight, self.feature_proj.weight):
            nn.init.xavier_uniform_(weight, gain=(2 / 3) ** 0.5)
        nn.init.zeros_(self.embedding_proj.bias)

    def embed(self, embeddings: Tensor) -> Tensor:
        """The part (..., E) of embeddings (..., E), which depends on a token alone."""
        embedded: Tensor = self.embedding_proj(embeddings)
        return embedded

    def mix(self, features: Tensor, embedded: Tensor) -> Tensor:
        """The fusion x (..., E) of features (..., E) and what `embed` gave for the token after each."""
        mixed: Tensor = embedded + self.feature_proj(features)
        return mixed


class DraftBlock(nn.Module):
    """A decoder block. The first block of a head has no input norm."""

    def __init__(self, config: BlockConfig, *, has_input_norm: bool) -> None:
        super().__init__()
        size = config.hidden_size
        epsilon = config.norm_epsilon
        self.input_layernorm = LlamaRMSNorm(size, epsilon) if has_input_norm else nn.Identity()
        self.self_attn = DraftAttention(config, size)
        self.post_attention_layernorm = LlamaRMSNorm(size, epsilon)
        self.mlp = gated_mlp(config)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, cache: BlockCache) -> Tensor:
        """One step over `x` (B, T, E), to (B, T, E). Its keys and values join the cache."""
        x = x + self.self_attn(self.input_layernorm(x), cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class DraftHead(nn.Module):
    """Fusion and M blocks without a final norm: the output of the last block is the predicted feature."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.fusion = GatingFusion(config) if config.fusion == "gating" else ConcatenationFusion(config)
        self.layers = nn.ModuleList(
            DraftBlock(config.block, has_input_norm=index > 0) for index in range(config.num_blocks)
        )

    def embed(self, embeddings: Tensor) -> Tensor:
        """What the head reads of a token, (..., E), by the embedding of the token, (..., E)."""
        return self.fusion.embed(embeddings)

    def scored(self, predicted: Tensor) -> Tensor:
        """What the target's head makes logits of, by predicted features (..., E): the features themselves."""
        return predicted

    def forward(self, features: Tensor, embedded: Tensor, caches: list[BlockCache]) -> Tensor:
        """Predict the feature after each position.

        Args:
            features: (B, T, E), the target's features or predicted ones.
            embedded: (B, T, E), what `fusion.embed` gives for the token after each feature.
            caches: cache of each block, which this step's keys and values join.

        Returns:
            (B, T, E), the feature of the next position.
        """
        x = self.fusion.mix(features, embedded)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, cache)
        return x
