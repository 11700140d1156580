"""The weights of a drafter's graph by name: the head's own, and the two ends it shares with its target."""

from __future__ import annotations

import torch

from dovetail_ort_export.operators import COS_CACHE, SIN_CACHE
from dovetail_ort_export.target_ends import TargetEnds
from dovetail_ort_export.training.draft_head import DraftHead
from dovetail_ort_runtime.arrays import FloatArray, TokenArray


class DraftWeights:
    """As `weights.NamedWeights`.

    Args:
        head: float32, on the CPU.
        ends: of the target.
        draft_token_ids: (Vd,) int64, the rows of the target's head that can be drafted.
    """

    def __init__(self, head: DraftHead, ends: TargetEnds, draft_token_ids: TokenArray) -> None:
        with torch.no_grad():
            self._arrays: dict[str, FloatArray] = {
                f"head.{name}": parameter.numpy() for name, parameter in head.named_parameters()
            }
            # What the fusion makes of a token depends on nothing else: it is looked up instead of the embedding.
            self._arrays["embed_tokens.weight"] = head.fusion.embed(torch.from_numpy(ends.embedding)).numpy()
        self._arrays["lm_head.weight"] = ends.head[draft_token_ids]
        self._arrays[COS_CACHE], self._arrays[SIN_CACHE] = ends.cos, ends.sin

    def canonical_name(self, name: str) -> str:
        """The name itself: none has two."""
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the weight `name`."""
        return self._arrays[name].shape

    def __getitem__(self, name: str) -> FloatArray:
        """The weight `name` as a float32 array."""
        return self._arrays[name]
