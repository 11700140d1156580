"""Llama as Meta publishes it: Llama 2 to 3.3, SmolLM2, the Llama distillations of DeepSeek-R1."""

from __future__ import annotations

from typing import Any, Final

from dovetail_ort_export.checking.witness.architecture import ATTENTION, MLP, Architecture
from dovetail_ort_export.checking.witness.config_keys import read_architecture
from dovetail_ort_export.checking.witness.values import count, over_defaults

# Of the published configuration: what a key that is absent means.
DEFAULTS: Final[dict[str, Any]] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}


def architecture(config: dict[str, Any], max_context: int) -> Architecture:
    """A decoder whose blocks all see the whole text, with biases where the configuration says so."""
    known = over_defaults(config, DEFAULTS)
    attention = ATTENTION if known["attention_bias"] else frozenset()
    mlp = MLP if known["mlp_bias"] else frozenset()
    layers = ("full_attention",) * count(known, "num_hidden_layers")
    return read_architecture(known, max_context, layers=layers, biased=attention | mlp)
