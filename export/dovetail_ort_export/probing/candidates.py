"""A published head under one reading of its configuration, ready to draft in torch. It measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dovetail_ort_export.heads.level_fusion import LevelFusion
from dovetail_ort_export.heads.published import PublishedHead, Reading
from dovetail_ort_export.probing.agreement import ProbedHead
from dovetail_ort_export.probing.probe_texts import ProbeText
from dovetail_ort_export.probing.target_states import levels_of
from dovetail_ort_export.writing.target_ends import TargetEnds
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidate:
    """A head under one reading of its configuration.

    Attributes:
        reading: the reading.
        head: the head that drafts.
        fusion: what makes features of levels; None if the head reads the target's hidden states.
    """

    reading: Reading
    head: ProbedHead
    fusion: LevelFusion | None = None

    @property
    def name(self) -> str:
        """The reading in words."""
        if not self.reading.levels:
            return "hidden states after the final norm"
        levels = ", ".join(map(str, self.reading.levels))
        residual = "after" if self.reading.norm_before_residual else "before"
        fed_back = ", normed states fed back" if self.reading.feeds_back_norm else ""
        return f"levels {levels}, residual {residual} the norm{fed_back}"

    @torch.no_grad()
    def features(self, text: ProbeText, levels: Sequence[int]) -> FloatArray:
        """What the head reads of one text, (T - 1, F).

        Args:
            text: text that was written with these levels, or with hidden states.
            levels: numbers of the levels.
        """
        if self.fusion is None:
            return text.features
        states = levels_of(text, levels)
        own = np.concatenate([states[level] for level in self.reading.levels], axis=-1)
        features: FloatArray = self.fusion(torch.from_numpy(own)).numpy()
        return features


def make_candidate(head: PublishedHead, reading: Reading, target: TargetEntry, ends: TargetEnds) -> Candidate:
    """A head by one reading, with its own two ends or those of its target.

    Args:
        head: head as its publisher made it.
        reading: one of its readings for the target.
        target: entry of the target.
        ends: embedding and head of the target.
    """
    rows = torch.from_numpy(head.draft_token_ids)
    lm_head = torch.from_numpy(ends.head)[rows] if head.lm_head is None else head.lm_head.float()
    probed = ProbedHead(
        network=head.network(reading),
        embedding=_embedding(head, ends),
        lm_head=lm_head,
        draft_token_ids=rows,
        rotary=head.rotary(target.max_context),
    )
    return Candidate(reading=reading, head=probed, fusion=head.level_fusion())


def _embedding(head: PublishedHead, ends: TargetEnds) -> Tensor:
    return torch.from_numpy(ends.embedding) if head.embedding is None else head.embedding.float()
