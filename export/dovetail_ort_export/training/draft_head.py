"""The drafter's trainable part: feature and embedding fused, then decoder blocks of the target's shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from dovetail_ort_export.training.draft_attention import DraftAttention, Memory
from dovetail_ort_export.training.head_config import HeadConfig


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
