"""The pre-norm decoder block that the families share, in plain torch; no configuration is read here."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from dovetail_ort_export.checking.witness.architecture import Architecture
from dovetail_ort_export.checking.witness.stored import Weights


def decoder_block(index: int, hidden: Tensor, positions: Tensor, weights: Weights, model: Architecture) -> Tensor:
    """Attention, then a gated MLP, each after a norm and added to its input.

    Args:
        index: number of the block, from 0.
        hidden: (T, E) float.
        positions: (T,) int64, ascending.
        weights: weights of this block.
        model: settings of the decoder.

    Returns:
        (T, E).
    """
    normed = rms_norm(hidden, weights.vector("input_layernorm.weight", model.hidden_size), model.norm_epsilon)
    hidden = hidden + attention(index, normed, positions, weights, model)
    normed = rms_norm(hidden, weights.vector("post_attention_layernorm.weight", model.hidden_size), model.norm_epsilon)
    return hidden + gated_mlp(normed, weights, model)


def attention(index: int, inputs: Tensor, positions: Tensor, weights: Weights, model: Architecture) -> Tensor:
    """Project to heads, apply the family's norms, rotate, attend, project back: (T, E)."""
    size = model.head_size
    widths = {"q": model.num_heads * size, "k": model.num_kv_heads * size, "v": model.num_kv_heads * size}
    heads = {}
    for letter, width in widths.items():
        name = f"self_attn.{letter}_proj"
        heads[letter] = weights.project(name, inputs, width, bias=name in model.biased).reshape(len(inputs), -1, size)
    if model.head_norms:
        for letter in ("q", "k"):
            weight = weights.vector(f"self_attn.{letter}_norm.weight", size)
            heads[letter] = rms_norm(heads[letter], weight, model.norm_epsilon)
    rotation = model.rotations[index]
    query = rotation.turn(heads["q"], positions)
    key = rotation.turn(heads["k"], positions)
    attended = attend(query, key, heads["v"], visible(positions, model.windows[index]))
    return weights.project("self_attn.o_proj", attended, model.hidden_size, bias="self_attn.o_proj" in model.biased)


def gated_mlp(inputs: Tensor, weights: Weights, model: Architecture) -> Tensor:
    """down(silu(gate(x)) * up(x)) (Shazeer, 2020): (T, E)."""
    width = model.intermediate_size
    gate = weights.project("mlp.gate_proj", inputs, width, bias="mlp.gate_proj" in model.biased)
    up = weights.project("mlp.up_proj", inputs, width, bias="mlp.up_proj" in model.biased)
    return weights.project("mlp.down_proj", silu(gate) * up, model.hidden_size, bias="mlp.down_proj" in model.biased)


def rms_norm(inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Scale the last axis to a root mean square of one, then by `weight` (Zhang and Sennrich, 2019)."""
    mean_square = inputs.square().mean(dim=-1, keepdim=True)
    return inputs * torch.rsqrt(mean_square + epsilon) * weight


def visible(positions: Tensor, window: int | None) -> Tensor:
    """Which key each query sees: those given no later than itself, and only the last `window` positions.

    Args:
        positions: (T,) int64, ascending.
        window: number of positions that a query sees, its own included; None for all.

    Returns:
        (T, T) bool, queries by keys.
    """
    distance = positions[:, None] - positions[None, :]
    if window is None:
        return distance >= 0
    return (distance >= 0) & (distance < window)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention, each KV head shared by H / Hkv query heads (Ainslie et al., 2023).

    Args:
        query: (T, H, D).
        key: (T, Hkv, D).
        value: (T, Hkv, D).
        mask: (T, T) bool, which keys each query sees.

    Returns:
        (T, H * D).
    """
    num_tokens, num_heads, size = query.shape
    num_sharing = num_heads // key.shape[1]
    key = key.repeat_interleave(num_sharing, dim=1)
    value = value.repeat_interleave(num_sharing, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query, key) / size**0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, value).reshape(num_tokens, num_heads * size)
