"""The model families that can be exported, one file each.

    model_type of config.json -> FAMILIES -> Family: what each setting may be

What all families have in common is in `family`. The tables in docs/sources.md are made from these files.
"""

from __future__ import annotations

from typing import Final

from dovetail_ort_export.source.families.family import Family
from dovetail_ort_export.source.families.llama import LLAMA
from dovetail_ort_export.source.families.mistral import MISTRAL
from dovetail_ort_export.source.families.qwen2 import QWEN2
from dovetail_ort_export.source.families.qwen3 import QWEN3

__all__ = ["FAMILIES", "Family"]

FAMILIES: Final[dict[str, Family]] = {family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3)}
