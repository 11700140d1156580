"""From the keys of a config.json that all families share to the settings of an `Architecture`."""

from __future__ import annotations

from typing import Any

from dovetail_ort_export.checking.witness.architecture import Architecture
from dovetail_ort_export.checking.witness.rotary_keys import read_rotation
from dovetail_ort_export.checking.witness.values import count, number
from dovetail_ort_runtime.errors import SourceError


def read_architecture(
    known: dict[str, Any],
    max_context: int,
    *,
    layers: tuple[str, ...],
    biased: frozenset[str],
    head_norms: bool = False,
) -> Architecture:
    """The settings in a configuration.

    Args:
        known: the configuration over its family's defaults.
        max_context: longest text of the bundle, in tokens.
        layers: "full_attention" or "sliding_attention", for each block.
        biased: names of the projections that add a bias.
        head_norms: whether each head's query and key pass through a norm.

    Raises:
        SourceError: a value is missing or is not one that this family is published with.
    """
    if known["hidden_act"] not in ("silu", "swish"):
        raise SourceError(f"hidden_act must be silu for an independent check, got {known['hidden_act']!r}")
    heads = count(known, "num_attention_heads")
    width = count(known, "hidden_size")
    size = width // heads if known["head_dim"] is None else count(known, "head_dim")
    rotations = {kind: read_rotation(known, kind, size, max_context) for kind in set(layers)}
    return Architecture(
        hidden_size=width,
        intermediate_size=count(known, "intermediate_size"),
        num_heads=heads,
        num_kv_heads=heads if known["num_key_value_heads"] is None else count(known, "num_key_value_heads"),
        head_size=size,
        norm_epsilon=number(known, "rms_norm_eps"),
        rotations=tuple(rotations[kind] for kind in layers),
        windows=tuple(count(known, "sliding_window") if kind == "sliding_attention" else None for kind in layers),
        biased=biased,
        head_norms=head_norms,
        tied=known["tie_word_embeddings"],
    )


def qwen_layers(known: dict[str, Any]) -> tuple[str, ...]:
    """What each block of a Qwen sees: windows if `use_sliding_window`, from block `max_window_layers` on or as listed.

    Raises:
        SourceError: `layer_types` has another kind or length, or windows that are switched off.
    """
    blocks = count(known, "num_hidden_layers")
    slides = known["use_sliding_window"] and known["sliding_window"] is not None
    listed = known["layer_types"]
    if listed is None:
        first = known["max_window_layers"] if slides else blocks
        return tuple("sliding_attention" if index >= first else "full_attention" for index in range(blocks))
    allowed = {"full_attention", "sliding_attention"} if slides else {"full_attention"}
    if len(listed) != blocks or not set(listed) <= allowed:
        raise SourceError(
            f"layer_types must name one of {', '.join(sorted(allowed))} for each of {blocks} layers, got {listed}"
        )
    return tuple(listed)
