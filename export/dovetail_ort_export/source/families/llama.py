"""Llama, and the models of other publishers that have its design."""

from __future__ import annotations

from typing import Final

from dovetail_ort_export.source.families.family import Family
from dovetail_ort_export.source.rules import Listed, Number, Truth

LLAMA: Final = Family(
    model_type="llama",
    models="Llama 2, 3, 3.1, 3.2, 3.3; SmolLM, SmolLM2; DeepSeek-R1-Distill-Llama; TinyLlama; Yi",
    settings={
        "attention_bias": Truth(),
        "mlp_bias": Truth(),
        "head_dim": Number(whole=True, least=1),
        "layer_types": Listed(("full_attention",)),
    },
    neutral={
        "is_llama_config": (True, False),  # SmolLM2 has it
        "use_sliding_window": (False,),
    },
)
