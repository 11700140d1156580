"""How a head's weights are moved: Muon for matrices, AdamW for the rest, one schedule for both."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Module

from dovetail_ort_export.training.muon import Muon

_WARM_UP_SHARE: Final = 0.03
_LARGEST_GRADIENT: Final = 1.0
_ADAM_BETAS: Final = (0.9, 0.95)
_WEIGHT_DECAY: Final = 0.01


class Optimisers:
    """Muon on matrices and AdamW on norms and biases, warmed up and then lowered to zero linearly.

    `learning_rate` is the highest, `num_steps` those of the whole training, `dtype` as of `Muon`.
    """

    def __init__(self, module: Module, *, learning_rate: float, num_steps: int, dtype: torch.dtype) -> None:
        self._parameters = list(module.parameters())
        matrices = [parameter for parameter in self._parameters if parameter.ndim == 2]
        others = [parameter for parameter in self._parameters if parameter.ndim != 2]
        self._optimisers = [
            Muon(matrices, lr=learning_rate, weight_decay=_WEIGHT_DECAY, dtype=dtype),
            torch.optim.AdamW(others, lr=learning_rate, betas=_ADAM_BETAS, weight_decay=0.0),
        ]
        warm_up = max(1, round(num_steps * _WARM_UP_SHARE))

        def factor(step: int) -> float:
            return min((step + 1) / warm_up, (num_steps - step) / max(num_steps - warm_up, 1))

        self._schedules = [torch.optim.lr_scheduler.LambdaLR(optimiser, factor) for optimiser in self._optimisers]
        self._parts: tuple[Any, ...] = (*self._optimisers, *self._schedules)

    def step(self, loss: Tensor) -> None:
        """Move the weights down the gradient of `loss`."""
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, _LARGEST_GRADIENT)
        for optimiser, schedule in zip(self._optimisers, self._schedules, strict=True):
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later `load_state_dict` needs to go on."""
        return {str(index): part.state_dict() for index, part in enumerate(self._parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from an earlier `state_dict`."""
        for index, part in enumerate(self._parts):
            part.load_state_dict(state[str(index)])
