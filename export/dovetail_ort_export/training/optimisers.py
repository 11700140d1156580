"""How a head's weights are updated: Muon for matrices, AdamW for the rest, one schedule for both. It knows no loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Module, Parameter

_WARM_UP_SHARE: Final = 0.03
_LARGEST_GRADIENT: Final = 1.0
_ADAM_BETAS: Final = (0.9, 0.95)
_WEIGHT_DECAY: Final = 0.01
_MOMENTUM: Final = 0.95
_ITERATIONS: Final = 5
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_LEAST_NORM: Final = 1e-7
# Gives a step the size of AdamW's (arXiv 2502.16982, section 2.2), so that one learning rate suits both.
_STEP_OVER_ADAM: Final = 0.2


class Optimisers:
    """Muon on matrices and AdamW on norms and biases.

    The learning rate rises linearly over the first 3 % of the steps, and then falls linearly to zero.

    Args:
        module: the network whose weights are updated.
        learning_rate: highest learning rate of the schedule.
        num_steps: number of steps of the whole training.
        dtype: number format in which Muon makes a step orthogonal.
    """

    def __init__(self, module: Module, *, learning_rate: float, num_steps: int, dtype: torch.dtype) -> None:
        self._parameters = list(module.parameters())
        matrices = [parameter for parameter in self._parameters if parameter.ndim == 2]
        others = [parameter for parameter in self._parameters if parameter.ndim != 2]
        self._optimisers = [
            Muon(matrices, lr=learning_rate, dtype=dtype),
            torch.optim.AdamW(others, lr=learning_rate, betas=_ADAM_BETAS, weight_decay=0.0),
        ]
        num_rising = max(1, round(num_steps * _WARM_UP_SHARE))
        num_falling = max(num_steps - num_rising, 1)

        def factor(step: int) -> float:
            return min((step + 1) / num_rising, (num_steps - step) / num_falling)

        self._schedules = [torch.optim.lr_scheduler.LambdaLR(optimiser, factor) for optimiser in self._optimisers]
        self._parts: tuple[Any, ...] = (*self._optimisers, *self._schedules)

    def step(self, loss: Tensor) -> None:
        """Compute the gradient of `loss`, and update the weights."""
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, _LARGEST_GRADIENT)
        for optimiser, schedule in zip(self._optimisers, self._schedules, strict=True):
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """State for a later `load_state_dict`, by name."""
        return {str(index): part.state_dict() for index, part in enumerate(self._parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from an earlier `state_dict`."""
        for index, part in enumerate(self._parts):
            part.load_state_dict(state[str(index)])


class Muon(torch.optim.Optimizer):
    """Muon: Nesterov momentum, made orthogonal (https://kellerjordan.github.io/posts/muon/).

    In bf16 it computes what `torch.optim.Muon` with `match_rms_adamw` does. torch's Muon has no other number format,
    and is slow on processors without bf16 products.

    Args:
        matrices: weights (m, n) to update.
        lr: learning rate, until a schedule sets another.
        dtype: number format in which a step is made orthogonal.
    """

    def __init__(self, matrices: Iterable[Parameter], *, lr: float, dtype: torch.dtype) -> None:
        super().__init__(matrices, {"lr": lr})
        self._dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no loss is computed again, so there is no closure
        """Update the matrices by their gradients."""
        for group in self.param_groups:
            for matrix in group["params"]:
                momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 1 - _MOMENTUM)
                direction = orthogonal(matrix.grad.lerp(momentum, _MOMENTUM), self._dtype)
                learning_rate = group["lr"]
                matrix.mul_(1 - learning_rate * _WEIGHT_DECAY)
                matrix.add_(direction, alpha=-learning_rate * _STEP_OVER_ADAM * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix with the singular vectors of `matrix` and singular values of 0.5 to 1.5, by Newton-Schulz steps.

    Args:
        matrix: (m, n).
        dtype: number format of the computation.

    Returns:
        (m, n) in `dtype`.
    """
    a, b, c = _COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    result = wide.to(dtype)
    result = result / result.norm().clamp(min=_LEAST_NORM)
    for _ in range(_ITERATIONS):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result.T if wide is not matrix else result
