"""Which model families can be exported, and what in a model's configuration stands in the way."""

from __future__ import annotations

from typing import Any, Final

from dovetail_ort_runtime.errors import SourceError

# Pre-norm decoders of the same build: RMSNorm, rotary positions, a gated MLP with SiLU.
FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")

# Rotary scalings whose angles depend on the position alone; "dynamic" and "longrope" change with the length.
ROPE_TYPES: Final = ("default", "linear", "llama3", "yarn")


def check_family(config: Any) -> None:
    """Accept a transformers configuration that the exporter covers.

    Raises:
        SourceError: the family or a setting of it is not covered; the message names both and what is.
    """
    family = config.model_type
    if family not in FAMILIES:
        raise SourceError(f"the model family must be one of {', '.join(FAMILIES)}, got {family!r}")
    rope_type = (config.rope_scaling or {}).get("rope_type", "default") if hasattr(config, "rope_scaling") else "default"
    if rope_type not in ROPE_TYPES:
        raise SourceError(f"rope_type of {family} must be one of {', '.join(ROPE_TYPES)}, got {rope_type!r}")
    if config.hidden_act not in ("silu", "swish"):
        raise SourceError(f"hidden_act of {family} must be silu, got {config.hidden_act!r}")
    if getattr(config, "partial_rotary_factor", 1.0) != 1.0:
        raise SourceError(f"partial_rotary_factor of {family} must be 1, got {config.partial_rotary_factor}")


def head_size(config: Any) -> int:
    """D, the width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
