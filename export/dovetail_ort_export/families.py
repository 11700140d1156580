"""Which model families can be exported, and what in a model's configuration stands in the way."""

from __future__ import annotations

from typing import Any, Final

from dovetail_ort_runtime.errors import SourceError

# Pre-norm decoders of the same build: RMSNorm, rotary positions, a gated MLP with SiLU.
FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")

# Rotary scalings whose angles depend on the position alone; "dynamic" and "longrope" change with the length.
ROPE_TYPES: Final = ("default", "linear", "llama3", "yarn")

_HEAD_SIZE_STEP: Final = 16  # GroupQueryAttention's, where it rotates


def check_family(config: Any) -> None:
    """Accept a transformers configuration that the exporter covers.

    Raises:
        SourceError: the family or a setting of it is not covered; the message names both and what is.
    """
    family = config.model_type
    if family not in FAMILIES:
        raise SourceError(f"the model family must be one of {', '.join(FAMILIES)}, got {family!r}")
    if (rope_type := _rope_type(config)) not in ROPE_TYPES:
        raise SourceError(f"rope_type of {family} must be one of {', '.join(ROPE_TYPES)}, got {rope_type!r}")
    if config.hidden_act not in ("silu", "swish"):
        raise SourceError(f"hidden_act of {family} must be silu, got {config.hidden_act!r}")
    if getattr(config, "partial_rotary_factor", 1.0) != 1.0:
        raise SourceError(f"partial_rotary_factor of {family} must be 1, got {config.partial_rotary_factor}")
    if head_size(config) % _HEAD_SIZE_STEP:
        raise SourceError(f"the head size of {family} must be a multiple of {_HEAD_SIZE_STEP}, got {head_size(config)}")


def check_window(config: Any, max_context: int) -> None:
    """Accept a sliding window that no text of `max_context` tokens outgrows.

    Raises:
        SourceError: the window is smaller; the message says with which limit the model can be exported.
    """
    # GroupQueryAttention's local window counts slots of the cache: right for chains, wrong for trees, where siblings
    # take slots between a draft token and its ancestors.
    window = _sliding_window(config)
    if window is not None and window < max_context:
        raise SourceError(
            f"max_context must be at most the sliding window of {window} tokens, got {max_context}; "
            f"export with --max-context {window}"
        )


def head_size(config: Any) -> int:
    """D, the width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _rope_type(config: Any) -> str:
    scaling = getattr(config, "rope_scaling", None) or {}
    return str(scaling.get("rope_type", scaling.get("type", "default")))  # older configurations say "type"


def _sliding_window(config: Any) -> int | None:
    """The window of the blocks that have one, or None if all see everything."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and "sliding_attention" not in layer_types:
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window
