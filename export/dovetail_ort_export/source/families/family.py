"""What trace and checks must know of a model family, and what all families that are covered have in common.

All are pre-norm decoders of one build: RMSNorm, rotary positions, grouped-query attention, a gated MLP with SiLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Final

from dovetail_ort_export.source.rules import AnyOf, Number, Rule, Truth

_SILU: Final = ("silu", "swish")

# The shape of the model; without these nothing can be said of it.
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

# Tensors that a file may hold and no model needs, by pattern, with the reason.
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
        model_type: `model_type` of its `config.json`.
        models: published models of the family, as people call them.
        settings: what it has beside `COMMON_SETTINGS` that changes the mathematics, by key.
        neutral: keys that would change the mathematics in a way that is not built, and the values that do not.
        defaults: values of settings that its publisher leaves out of `config.json`.
    """

    model_type: str
    models: str
    settings: Mapping[str, Rule] = field(default_factory=dict)
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def rule(self, key: str) -> Rule | None:
        """What the key `key` of a configuration may be, if it is one that this family understands."""
        return self.settings.get(key) or COMMON_SETTINGS.get(key)


def reason_unneeded(name: str) -> str | None:
    """Why no model needs a tensor `name` of its files, if that is known."""
    return next((reason for pattern, reason in UNNEEDED.items() if fnmatchcase(name, pattern)), None)
