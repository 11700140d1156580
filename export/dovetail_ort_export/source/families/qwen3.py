"""Qwen3: Qwen2 without the biases, with a norm on each head of query and key, and with a head size of its own."""

from __future__ import annotations

from typing import Final

from dovetail_ort_export.source.families.family import Family
from dovetail_ort_export.source.families.qwen2 import WINDOW_DEFAULTS, WINDOW_SETTINGS
from dovetail_ort_export.source.rules import Number, Truth

QWEN3: Final = Family(
    model_type="qwen3",
    models="Qwen3 0.6B to 32B, dense; DeepSeek-R1-0528-Qwen3, once its attn_factor is spelled attention_factor",
    settings={
        **WINDOW_SETTINGS,
        "attention_bias": Truth(),
        "head_dim": Number(whole=True, least=1),
    },
    neutral={"mlp_bias": (False,)},  # merged and converted models have this key
    defaults={**WINDOW_DEFAULTS, "num_key_value_heads": 32, "head_dim": 128},
)
