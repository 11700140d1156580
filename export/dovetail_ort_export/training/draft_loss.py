"""How wrong predicted features are, and how wrong the tokens that follow from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from dovetail_ort_export.training.text_batches import TextBatch

# A chain's later steps count less, as they are reached less often (EAGLE-3, arXiv 2503.01840).
STEP_DECAY: Final = 0.8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DraftLoss:
    """Cross-entropy against the target's distribution over the draft vocabulary, plus SmoothL1 of the features.

    Attributes:
        head: (Vd, E), the rows of the target's head that can be drafted.
        feature_weight: of SmoothL1, the mean over channels.
    """

    head: Tensor
    feature_weight: float

    def __call__(self, batch: TextBatch, steps: Iterable[Tensor]) -> Tensor:
        """Mean over the positions to learn from, steps weighted by powers of `STEP_DECAY`."""
        wanted = batch.wanted_features[batch.is_learned]
        with torch.no_grad():
            probabilities = functional.softmax((wanted @ self.head.T).float(), dim=-1)
        total, weights = wanted.new_zeros(()), 0.0
        places = torch.arange(batch.is_learned.shape[1], device=wanted.device).expand_as(batch.is_learned)
        places = places[batch.is_learned]
        for step, predicted in enumerate(steps):
            # The first positions are behind no chain of this length.
            rows = places >= step
            loss = self._of_rows(predicted[batch.is_learned][rows], wanted[rows], probabilities[rows])
            total = total + STEP_DECAY**step * loss
            weights += STEP_DECAY**step
        return total / weights

    def _of_rows(self, predicted: Tensor, wanted: Tensor, probabilities: Tensor) -> Tensor:
        log_q = functional.log_softmax((predicted @ self.head.T).float(), dim=-1)
        tokens = -(probabilities * log_q).sum(-1).mean()
        return tokens + self.feature_weight * functional.smooth_l1_loss(predicted.float(), wanted)
