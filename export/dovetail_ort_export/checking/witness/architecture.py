"""The settings of a decoder, whichever kind of file they were read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dovetail_ort_export.checking.witness.rotary import Rotation

QKV: Final = frozenset({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"})
ATTENTION: Final = QKV | {"self_attn.o_proj"}
MLP: Final = frozenset({"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Architecture:
    """A decoder's settings; its activation is SiLU.

    Attributes:
        hidden_size: E, width of hidden states.
        intermediate_size: inner width of the MLP.
        num_heads: H, number of query heads.
        num_kv_heads: Hkv, number of key-value heads.
        head_size: D, width of a head.
        norm_epsilon: number that RMSNorm adds to the mean square.
        rotations: how queries and keys turn, for each block.
        windows: number of positions that a block sees, or None for all, for each block.
        biased: names of the projections that add a bias.
        head_norms: whether each head's query and key pass through an RMSNorm before they turn.
        tied: whether the head is the embedding.
    """

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    norm_epsilon: float
    rotations: tuple[Rotation, ...]
    windows: tuple[int | None, ...]
    biased: frozenset[str]
    head_norms: bool
    tied: bool
