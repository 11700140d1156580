"""What a drafter's graph is made of: a head's network and its two ends. It knows no graph.

A head that is trained here has the ends of its target. A head that others have trained may have its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dovetail_ort_export.heads.config import Eagle3Config, HeadConfig
from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.heads.published import PublishedHead, Reading
from dovetail_ort_export.writing.target_ends import TargetEnds
from dovetail_ort_runtime.arrays import TokenArray

# Of a number that went through 8 bits with a scale for its row: a step of 127, with room for the scale's own rounding.
_LARGEST_ROUNDING: Final = 1 / 127
_ROWS_AT_ONCE: Final = 4096


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DrafterParts:
    """A head between its ends. All tensors are floating-point numbers of any type.

    Attributes:
        config: what decides the shape of the network.
        weights: parameters of the network by its names for them.
        embedded: (V, E), what the network reads of each token.
        lm_head: (Vd, E); logits are states times its transpose.
        draft_token_ids: (Vd,) int64, the tokens that can be drafted.
        cos: (max_context, D / 2), cosines of the rotary angles by position.
        sin: (max_context, D / 2), sines of the rotary angles by position.
        has_target_embedding: whether `embedded` is the embedding of the target as it is.
    """

    config: HeadConfig | Eagle3Config
    weights: dict[str, Tensor]
    embedded: Tensor
    lm_head: Tensor
    draft_token_ids: TokenArray
    cos: Tensor
    sin: Tensor
    has_target_embedding: bool = False

    @property
    def num_parameters(self) -> int:
        """Number of weights of the network, without the ends."""
        return sum(tensor.numel() for tensor in self.weights.values())


@torch.no_grad()
def own_parts(head: DraftHead, ends: TargetEnds, draft_token_ids: TokenArray) -> DrafterParts:
    """The parts of a head that was trained here.

    Args:
        head: head in float32, on the CPU.
        ends: embedding, head and rotary angles of its target.
        draft_token_ids: (Vd,) int64, the tokens it can draft.
    """
    return DrafterParts(
        config=head.config,
        weights=dict(head.named_parameters()),
        # What the fusion makes of a token depends on nothing else: it is looked up instead of the embedding.
        embedded=head.embed(torch.from_numpy(ends.embedding)),
        lm_head=torch.from_numpy(ends.head[draft_token_ids]),
        draft_token_ids=draft_token_ids,
        cos=torch.tensor(ends.cos),
        sin=torch.tensor(ends.sin),
    )


@torch.no_grad()
def published_parts(
    published: PublishedHead, reading: Reading, ends: TargetEnds, *, is_quantised: bool = False
) -> DrafterParts:
    """The parts of a head that others have trained, by one of its readings.

    The rotary angles are the head's own, for as many positions as the target has.

    Args:
        published: head of the target, as `PublishedHead.check_target` accepts it.
        reading: one of its readings.
        ends: embedding, head and rotary angles of the target.
        is_quantised: whether the target's embedding went through 8 bits, so that the head's copy of it may differ.

    Raises:
        SourceError: the head's angles change with the length of the text.
    """
    rotary = published.rotary(len(ends.cos))
    own = published.embedding
    of_target = torch.from_numpy(ends.embedding)
    has_target_embedding = own is None or _is_equal(own, of_target, _LARGEST_ROUNDING if is_quantised else 0.0)
    embedding = of_target if own is None or has_target_embedding else own
    embedded = embedding
    if isinstance(published.network_config(reading), HeadConfig):
        embedded = published.network(reading).embed(embedding.to(torch.float32))
        has_target_embedding = False
    lm_head = published.lm_head
    if lm_head is None:
        lm_head = torch.from_numpy(ends.head[published.draft_token_ids])
    return DrafterParts(
        config=published.network_config(reading),
        weights=published.network_tensors(),
        embedded=embedded,
        lm_head=lm_head,
        draft_token_ids=published.draft_token_ids,
        cos=rotary.cos,
        sin=rotary.sin,
        has_target_embedding=has_target_embedding,
    )


def _is_equal(own: Tensor, of_target: Tensor, tolerance: float) -> bool:
    """Whether an embedding (V, E) is the target's.

    Args:
        own: embedding of the head.
        of_target: embedding of the target, float32.
        tolerance: largest difference within a row, as a share of the row's largest number.
    """
    if own.shape != of_target.shape:
        return False
    for start in range(0, len(own), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        exact = own[rows].to(torch.float32)
        difference = (exact - of_target[rows]).abs().amax(-1)
        if bool((difference > tolerance * exact.abs().amax(-1)).any()):
            return False
    return True
