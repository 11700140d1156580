"""Qwen2: Llama's block with biases on query, key and value. Its window in upper blocks is switched off as published."""

from __future__ import annotations

from typing import Final

from dovetail_ort_export.source.families.family import Family
from dovetail_ort_export.source.rules import Listed, Number, Rule, Truth

# Settings of the window, which Qwen3 has, too.
WINDOW_SETTINGS: Final[dict[str, Rule]] = {
    "use_sliding_window": Truth(),
    "sliding_window": Number(whole=True, least=1, or_none=True),
    "max_window_layers": Number(whole=True, least=0),
    "layer_types": Listed(("full_attention", "sliding_attention")),
}
WINDOW_DEFAULTS: Final = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}

QWEN2: Final = Family(
    model_type="qwen2",
    models="Qwen1.5, Qwen2, Qwen2.5, Qwen2.5-Coder and -Math; DeepSeek-R1-Distill-Qwen",
    settings={**WINDOW_SETTINGS, "head_dim": Number(whole=True, least=1)},
    defaults={**WINDOW_DEFAULTS, "num_key_value_heads": 32},
    neutral={
        "use_mrope": (False,),  # positions of images
        "mlp_bias": (False,),  # merged and converted models have this key
    },
)
