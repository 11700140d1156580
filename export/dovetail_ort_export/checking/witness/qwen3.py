"""Qwen3, dense, as the Qwen team publishes it."""

from __future__ import annotations

from typing import Any, Final

from dovetail_ort_export.checking.witness.architecture import ATTENTION, Architecture
from dovetail_ort_export.checking.witness.config_keys import qwen_layers, read_architecture
from dovetail_ort_export.checking.witness.values import over_defaults

# Of the published configuration: what a key that is absent means.
DEFAULTS: Final[dict[str, Any]] = {
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}


def architecture(config: dict[str, Any], max_context: int) -> Architecture:
    """A Llama with norms on each head's query and key, with windows in the upper blocks if they are switched on."""
    known = over_defaults(config, DEFAULTS)
    biased = ATTENTION if known["attention_bias"] else frozenset()
    return read_architecture(known, max_context, layers=qwen_layers(known), biased=biased, head_norms=True)
