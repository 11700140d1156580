"""From the metadata of a GGUF file to the settings of an `Architecture`, by the rules of llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from dovetail_ort_export.checking.witness.architecture import ATTENTION, MLP, QKV, Architecture
from dovetail_ort_export.checking.witness.rotary import (
    Rotation,
    divided,
    plain_frequencies,
    yarn_attention_factor,
    yarn_frequencies,
)
from dovetail_ort_export.checking.witness.stored import StoredRows
from dovetail_ort_export.checking.witness.values import count, number, number_or
from dovetail_ort_runtime.errors import SourceError

# `llama` stands for Mistral too. Its queries and keys are stored so that neighbours are pairs; in the other
# architectures, element i is paired with one in the second half.
_ARCHITECTURES: Final = ("llama", "qwen2", "qwen3")


def architecture_of(metadata: Mapping[str, Any], tensors: Mapping[str, StoredRows], max_context: int) -> Architecture:
    """The settings in a file's metadata; biases and an own head are there if their tensors are.

    Raises:
        SourceError: the architecture or a value is not one that llama.cpp defines for these families.
    """
    name = metadata.get("general.architecture")
    if name not in _ARCHITECTURES:
        raise SourceError(f"general.architecture must be one of {', '.join(_ARCHITECTURES)}, got {name!r}")
    prefix = f"{name}."
    values = {key.removeprefix(prefix): _same(value) for key, value in metadata.items() if key.startswith(prefix)}
    _check_window(values, max_context)
    if name != "llama" and "rope_freqs.weight" in tensors:
        raise SourceError(f"rope_freqs.weight has no meaning for the architecture {name}; convert the model again")
    heads = count(values, "attention.head_count")
    width = count(values, "embedding_length")
    size = _head_size(values, width // heads)
    blocks = count(values, "block_count")
    rotation = _rotation(values, tensors, size, max_context)
    return Architecture(
        hidden_size=width,
        intermediate_size=count(values, "feed_forward_length"),
        num_heads=heads,
        num_kv_heads=count({"attention.head_count_kv": heads, **values}, "attention.head_count_kv"),
        head_size=size,
        norm_epsilon=number(values, "attention.layer_norm_rms_epsilon"),
        rotations=(replace(rotation, neighbours=name == "llama"),) * blocks,
        windows=(None,) * blocks,
        biased=_biased(tensors) | (QKV if name == "qwen2" else frozenset()),
        head_norms=name == "qwen3",
        tied="lm_head.weight" not in tensors,
    )


def _check_window(values: Mapping[str, Any], max_context: int) -> None:
    window = values.get("attention.sliding_window")
    if window and window < max_context:
        raise SourceError(f"max_context must be at most the sliding window of {window} tokens, got {max_context}")


def _head_size(values: Mapping[str, Any], default: int) -> int:
    """Head size D, which keys and values must share."""
    size = count({"attention.key_length": default, **values}, "attention.key_length")
    value_size = values.get("attention.value_length", size)
    if value_size != size:
        raise SourceError(f"attention.value_length must be the key length {size}, got {value_size}")
    return size


def _biased(tensors: Mapping[str, StoredRows]) -> frozenset[str]:
    """Projections that have a bias in any block, and so must have one in every block."""
    return frozenset(part for part in ATTENTION | MLP if any(name.endswith(f".{part}.bias") for name in tensors))


def _same(value: Any) -> Any:
    """The one value that a list repeats for each block; any other value as it is."""
    return value[0] if isinstance(value, list) and value and value.count(value[0]) == len(value) else value


def _rotation(
    values: Mapping[str, Any], tensors: Mapping[str, StoredRows], head_size: int, max_context: int
) -> Rotation:
    """llama.cpp divides each frequency by its factor, then all by the scale; YaRN mixes with and without the scale."""
    kind = values.get("rope.scaling.type", "linear")  # with a scale of 1 if there is no factor either
    scale = number_or(values, "rope.scaling.factor", number_or(values, "rope.scale_linear", 1.0))
    base = number_or(values, "rope.freq_base", 10000.0)
    size = count({"rope.dimension_count": head_size, **values}, "rope.dimension_count")
    original = number_or(values, "rope.scaling.original_context_length", number(values, "context_length"))
    attention_factor = number_or(values, "rope.scaling.attn_factor", 1.0)
    factors = _factors(tensors, kind, original, max_context)
    if kind == "yarn" and factors is None:
        return _yarn(values, base, size, scale, original, attention_factor)
    if kind not in ("none", "linear", "longrope"):
        raise SourceError(f"rope.scaling.type must be none, linear, longrope or yarn without factors, got {kind!r}")
    frequencies = plain_frequencies(base, size) / (1.0 if kind == "none" else scale)
    if factors is not None:
        frequencies = divided(frequencies, factors)
    return Rotation(frequencies=frequencies, attention_factor=attention_factor)


def _yarn(
    values: Mapping[str, Any], base: float, size: int, scale: float, original: float, attention_factor: float
) -> Rotation:
    if values.get("rope.scaling.yarn_ext_factor", 1.0) != 1.0:
        raise SourceError(f"rope.scaling.yarn_ext_factor must be 1, got {values['rope.scaling.yarn_ext_factor']}")
    fast = number_or(values, "rope.scaling.yarn_beta_fast", 32.0)
    slow = number_or(values, "rope.scaling.yarn_beta_slow", 1.0)
    log_multiplier = number_or(values, "rope.scaling.yarn_log_multiplier", 0.0)
    attention_factor *= yarn_attention_factor(scale) / yarn_attention_factor(scale, log_multiplier)
    frequencies = yarn_frequencies(base, size, scale, original, beta_fast=fast, beta_slow=slow)
    return Rotation(frequencies=frequencies, attention_factor=attention_factor)


def _factors(tensors: Mapping[str, StoredRows], kind: str, original: float, max_context: int) -> Tensor | None:
    """The table of the file that is in use: of Llama 3.1 and later, or one of LongRoPE's two."""
    name = "rope_freqs.weight"
    if kind == "longrope":
        length = "long" if max_context > original else "short"
        name = f"rope_factors_{length}.weight"
        if name not in tensors:
            raise SourceError(f"the file says rope.scaling.type longrope and lacks the tensor {name}; convert it again")
    if name not in tensors:
        return None
    return tensors[name].read(0, tensors[name].shape[0]).to(torch.float32)
