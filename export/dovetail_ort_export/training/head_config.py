"""The dimensions of a draft head."""

from __future__ import annotations

from dataclasses import dataclass

from dovetail_ort_export.training.training_options import MAX_BLOCKS
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.manifest import FUSIONS


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """What decides the shapes of a draft head's weights, and the numbers that its operators need.

    Attributes:
        fusion: `gating` (Dovetail's Dynamic Gating Fusion) or `concatenation` (EAGLE's).
        num_blocks: M, 1 to 6.
        hidden_size: E, the target's; so are the following four.
        num_heads: H.
        num_kv_heads: Hkv.
        head_size: D.
        intermediate_size: inner width of a block's MLP.
        norm_epsilon: of every RMSNorm.
    """

    fusion: str
    num_blocks: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    norm_epsilon: float

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise InputError(f"fusion must be one of {', '.join(FUSIONS)}, got {self.fusion!r}")
        if not 1 <= self.num_blocks <= MAX_BLOCKS:
            raise InputError(f"blocks must be between 1 and {MAX_BLOCKS}, got {self.num_blocks}")
