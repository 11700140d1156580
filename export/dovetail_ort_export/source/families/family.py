"""What export must know about a model family, and what all covered families have in common.

All are pre-norm decoders of one design: RMSNorm, rotary positions, grouped-query attention, and a gated MLP with SiLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Final

from dovetail_ort_export.source.rules import AnyOf, Number, Rule, Truth

_SILU: Final = ("silu", "swish")

# The dimensions of the model, which every configuration must have.
DIMENSIONS: Final = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")

# Settings that change what every family computes.
COMMON_SETTINGS: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        **{name: Number(whole=True, least=1) for name in DIMENSIONS},
        "num_key_value_heads": Number(whole=True, least=1, or_none=True),
        "max_position_embeddings": Number(whole=True, least=2),
        "rms_norm_eps": Number(above=0),
        "hidden_act": AnyOf(_SILU),
        "tie_word_embeddings": Truth(),
    }
)

# Reasons why no model needs a tensor, by a pattern for its name.
UNNEEDED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "*.rotary_emb.inv_freq": "rotary frequencies, computed from the settings",
        "rotary_emb.inv_freq": "rotary frequencies, computed from the settings",
        "*.attn.masked_bias": "a buffer of the causal mask",
        "*.attn.bias": "a buffer of the causal mask",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One model family.

    Attributes:
        model_type: `model_type` in the `config.json` of its models.
        models: published models of the family, as people call them.
        settings: rules of the settings that the family has beside `COMMON_SETTINGS`, by key.
        neutral: values that change nothing, by the key of a setting whose other values are not supported.
        defaults: values of settings that publishers leave out of `config.json`, by key.
    """

    model_type: str
    models: str
    settings: Mapping[str, Rule] = field(default_factory=dict)
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def rule(self, key: str) -> Rule | None:
        """The rule of a key of the configuration, or None if the family has no such setting."""
        return self.settings.get(key) or COMMON_SETTINGS.get(key)


def reason_unneeded(name: str) -> str | None:
    """Why no model needs a tensor of this name, or None if no reason is known."""
    for pattern, reason in UNNEEDED.items():
        if fnmatchcase(name, pattern):
            return reason
    return None
