"""The settings that a family's page works with, whichever file they were read from."""

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
        hidden_size: E.
        intermediate_size: width of the MLP.
        num_heads: H, query heads.
        num_kv_heads: Hkv.
        head_size: D.
        norm_epsilon: what RMSNorm adds to the mean square.
        rotations: of each block.
        windows: number of positions that each block sees, or None for all.
        biased: projections that add a bias.
        head_norms: each head's query and key pass through an RMSNorm before they turn.
        tied: the head is the embedding.
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
