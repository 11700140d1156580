"""Mistral: Llama's block, with a sliding window in the first releases, and with a head size of its own in Nemo."""

from __future__ import annotations

from typing import Final

from dovetail_ort_export.source.families.family import Family
from dovetail_ort_export.source.rules import Number

MISTRAL: Final = Family(
    model_type="mistral",
    models="Mistral 7B v0.1 to v0.3, Mistral-Nemo, Mistral Small 2409 and 2501, Zephyr",
    settings={
        "head_dim": Number(whole=True, least=1),
        "sliding_window": Number(whole=True, least=1, or_none=True),
    },
    neutral={"attention_bias": (False,), "mlp_bias": (False,)},  # merged and converted models have these keys
    # The values of the first release, its window among them.
    defaults={"num_key_value_heads": 8, "sliding_window": 4096},
)
