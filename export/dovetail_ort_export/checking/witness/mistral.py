"""Mistral as Mistral AI publishes it: 7B of all versions, Nemo."""

from __future__ import annotations

from typing import Any, Final

from dovetail_ort_export.checking.witness.architecture import Architecture
from dovetail_ort_export.checking.witness.config_keys import read_architecture
from dovetail_ort_export.checking.witness.values import count, over_defaults

# Of the published configuration: what a key that is absent means.
DEFAULTS: Final[dict[str, Any]] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "sliding_window": 4096,
}


def architecture(config: dict[str, Any], max_context: int) -> Architecture:
    """A Llama without biases, all of whose blocks have a sliding window unless it is null."""
    known = over_defaults(config, DEFAULTS)
    kind = "full_attention" if known["sliding_window"] is None else "sliding_attention"
    layers = (kind,) * count(known, "num_hidden_layers")
    return read_architecture(known, max_context, layers=layers, biased=frozenset())
