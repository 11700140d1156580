"""From levels of the target to the feature that an EAGLE-3 head reads, in torch. The target's graph does the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from dovetail_ort_runtime.checks import must_be_one_of

NORMS = ("none", "all", "each")


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelFusionConfig:
    """What decides the shapes of the fusion's weights.

    Attributes:
        num_levels: k, number of levels that stand side by side.
        level_size: width of a level, the hidden size of the target.
        feature_size: F, width of what comes out.
        norm: `none`, `all` for one RMSNorm over all levels side by side, or `each` for one over each level.
        norm_epsilon: number that the norms add to the mean square.
        bias: whether the product has a bias.
    """

    num_levels: int
    level_size: int
    feature_size: int
    norm: str
    norm_epsilon: float
    bias: bool

    def __post_init__(self) -> None:
        must_be_one_of("norm", self.norm, NORMS)


class LevelFusion(nn.Module):
    """feature = fc(norms(levels side by side)). Its weights are called as publishers call them."""

    def __init__(self, config: LevelFusionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.num_levels * config.level_size
        self.fc = nn.Linear(width, config.feature_size, bias=config.bias)
        if config.norm == "all":
            self.input_norm = LlamaRMSNorm(width, config.norm_epsilon)
        if config.norm == "each":
            norms = [LlamaRMSNorm(config.level_size, config.norm_epsilon) for _ in range(config.num_levels)]
            self.fc_norm = nn.ModuleList(norms)

    def forward(self, levels: Tensor) -> Tensor:
        """Features (..., F) of levels side by side, (..., k * level size)."""
        if self.config.norm == "all":
            levels = self.input_norm(levels)
        if self.config.norm == "each":
            parts = levels.chunk(self.config.num_levels, dim=-1)
            levels = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)], dim=-1)
        features: Tensor = self.fc(levels)
        return features
