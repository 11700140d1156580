"""The model families that can be exported, one file each.

    config.json's model_type -> FAMILIES -> Family: which settings mean what, which tensors need no place

Settings and tensors that all of them have stand in `family`. A family's file is what documentation reads, too.
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
