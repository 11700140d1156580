"""The settings of a draft head. It knows no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

from dovetail_ort_runtime.bundle.graph_entries import OWN_FUSIONS, TargetEntry
from dovetail_ort_runtime.checks import must_be_between, must_be_one_of

_MAX_BLOCKS: Final = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockConfig:
    """The shape of a decoder block.

    Attributes:
        hidden_size: E, width of what the block reads and gives.
        num_heads: H, number of query heads.
        num_kv_heads: Hkv, number of key-value heads.
        head_size: D, width of a head.
        intermediate_size: inner width of the MLP.
        norm_epsilon: number that every RMSNorm adds to the mean square.
        qkv_bias: whether queries, keys and values have a bias.
        output_bias: whether the attention's output has a bias.
        mlp_bias: whether the products of the MLP have a bias.
        qk_norm: whether each head of queries and keys passes through an RMSNorm.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    norm_epsilon: float
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Eagle3Config:
    """What decides the shapes of an EAGLE-3 head's weights, and how they are used.

    Attributes:
        num_blocks: M, number of decoder blocks; the first one also reads the embedding.
        block: shape of each block.
        norm_before_residual: whether the residual of the first block is the feature after its norm, not before it.
        feeds_back_norm: whether a later step of a chain reads the last step's state after the final norm.
    """

    num_blocks: int
    block: BlockConfig
    norm_before_residual: bool = False
    feeds_back_norm: bool = False

    @property
    def fusion(self) -> str:
        """How feature and token are joined, as a manifest names it."""
        return "eagle3"


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
        qkv_bias: whether queries, keys and values have a bias.
    """

    fusion: str
    num_blocks: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    norm_epsilon: float
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        check_head(self.fusion, self.num_blocks)

    @property
    def block(self) -> BlockConfig:
        """Shape of each block."""
        return BlockConfig(**_block_settings(self))

    @classmethod
    def of_block(cls, block: BlockConfig, *, fusion: str, num_blocks: int) -> HeadConfig:
        """Settings of a head whose blocks have this shape.

        Args:
            block: shape of each block, without the parts that no such head has.
            fusion: `gating` or `concatenation`.
            num_blocks: number of decoder blocks, 1 to 6.
        """
        return cls(fusion=fusion, num_blocks=num_blocks, **_block_settings(block))

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


def _block_settings(config: HeadConfig | BlockConfig) -> dict[str, Any]:
    """The settings that a head and each of its blocks have in common."""
    of_head = {field.name for field in fields(HeadConfig)}
    return {field.name: getattr(config, field.name) for field in fields(BlockConfig) if field.name in of_head}


def check_head(fusion: str, num_blocks: int) -> None:
    """Refuse a head that cannot be made.

    Raises:
        InputError: the fusion is unknown, or the number of blocks is out of bounds.
    """
    must_be_one_of("fusion", fusion, OWN_FUSIONS)
    must_be_between("num_blocks", num_blocks, 1, _MAX_BLOCKS)
