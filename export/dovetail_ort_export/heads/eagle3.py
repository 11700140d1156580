"""EAGLE-3's network (arXiv 2503.01840) without its two ends and without the fusion of levels.

The fusion is `LevelFusion`, which the target's graph computes. Embedding and logits are tensors of the head's files, or
of the target's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from dovetail_ort_export.heads.config import BlockConfig, Eagle3Config
from dovetail_ort_export.heads.draft_head import BlockCache, DraftAttention, DraftBlock, gated_mlp


class Eagle3Block(nn.Module):
    """The first block of a head, whose attention reads embedding and feature side by side.

    x = [norm_e(e) ; norm_f(f)],  a = r + attention(x),  y = a + mlp(norm(a)).  The residual r is f, or norm_f(f).
    """

    def __init__(self, config: BlockConfig, *, norm_before_residual: bool) -> None:
        super().__init__()
        size = config.hidden_size
        epsilon = config.norm_epsilon
        self.norm_before_residual = norm_before_residual
        self.input_layernorm = LlamaRMSNorm(size, epsilon)
        self.hidden_norm = LlamaRMSNorm(size, epsilon)
        self.self_attn = DraftAttention(config, 2 * size)
        self.post_attention_layernorm = LlamaRMSNorm(size, epsilon)
        self.mlp = gated_mlp(config)

    def forward(self, features: Tensor, embeddings: Tensor, cache: BlockCache) -> Tensor:
        """One step over features and embeddings (B, T, E), to (B, T, E). Its keys and values join the cache."""
        normed = self.hidden_norm(features)
        residual = normed if self.norm_before_residual else features
        x = torch.cat((self.input_layernorm(embeddings), normed), dim=-1)
        x = residual + self.self_attn(x, cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Eagle3Head(nn.Module):
    """M blocks, of which the first one joins feature and token, and the final norm."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        self.config = config
        first = Eagle3Block(config.block, norm_before_residual=config.norm_before_residual)
        further = [DraftBlock(config.block, has_input_norm=True) for _ in range(1, config.num_blocks)]
        self.layers = nn.ModuleList([first, *further])
        self.norm = LlamaRMSNorm(config.block.hidden_size, config.block.norm_epsilon)

    def embed(self, embeddings: Tensor) -> Tensor:
        """What the head reads of a token, (..., E), by the embedding of the token, (..., E): the embedding itself."""
        return embeddings

    def forward(self, features: Tensor, embedded: Tensor, caches: list[BlockCache]) -> Tensor:
        """Predict the feature after each position.

        Args:
            features: (B, T, E), fused levels of the target, or what an earlier step predicted.
            embedded: (B, T, E), embedding of the token after each feature.
            caches: cache of each block, which this step's keys and values join.

        Returns:
            (B, T, E), what a later step reads for the next position: the last block's output, after the final norm
            where the head feeds that back.
        """
        first, *further = self.layers
        x = first(features, embedded, caches[0])
        for layer, cache in zip(further, caches[1:], strict=True):
            x = layer(x, cache)
        return self._normed(x) if self.config.feeds_back_norm else x

    def scored(self, predicted: Tensor) -> Tensor:
        """What logits are made of, (..., E), by what `forward` gave, (..., E): the state after the final norm."""
        return predicted if self.config.feeds_back_norm else self._normed(predicted)

    def _normed(self, states: Tensor) -> Tensor:
        normed: Tensor = self.norm(states)
        return normed
