"""The settings of a draft head. It knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dovetail_ort_runtime.bundle.graph_entries import FUSIONS, TargetEntry
from dovetail_ort_runtime.checks import must_be_between, must_be_one_of

_MAX_BLOCKS: Final = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """The sizes of a draft head's weights, and the numbers that its operators need.

    Attributes:
        fusion: `gating` (Dovetail's Dynamic Gating Fusion) or `concatenation` (EAGLE's).
        num_blocks: M, number of decoder blocks, 1 to 6.
        hidden_size: hidden size of the target, E.
        num_heads: number of the target's query heads, H.
        num_kv_heads: number of the target's key-value heads, Hkv.
        head_size: head size of the target, D.
        intermediate_size: inner width of a block's MLP.
        norm_epsilon: number that every RMSNorm adds to the mean square.
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
        check_head(self.fusion, self.num_blocks)

    @classmethod
    def for_target(cls, target: TargetEntry, *, fusion: str, num_blocks: int, norm_epsilon: float) -> HeadConfig:
        """Settings of a head whose blocks have the shape of the target's blocks.

        Args:
            target: entry of a target whose MLP's width the manifest knows.
            fusion: `gating` or `concatenation`.
            num_blocks: number of decoder blocks, 1 to 6.
            norm_epsilon: number that the target's RMSNorms add to the mean square.
        """
        assert target.intermediate_size is not None
        return cls(
            fusion=fusion,
            num_blocks=num_blocks,
            hidden_size=target.hidden_size,
            num_heads=target.num_heads,
            num_kv_heads=target.num_kv_heads,
            head_size=target.head_size,
            intermediate_size=target.intermediate_size,
            norm_epsilon=norm_epsilon,
        )


def check_head(fusion: str, num_blocks: int) -> None:
    """Refuse a head that cannot be made.

    Raises:
        InputError: the fusion is unknown, or the number of blocks is out of bounds.
    """
    must_be_one_of("fusion", fusion, FUSIONS)
    must_be_between("num_blocks", num_blocks, 1, _MAX_BLOCKS)
