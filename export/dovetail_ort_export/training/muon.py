"""The optimiser of a head's matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor
from torch.nn import Parameter

_MOMENTUM: Final = 0.95
_ITERATIONS: Final = 5
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_LEAST_NORM: Final = 1e-7
# Brings a step to the size of AdamW's (arXiv 2502.16982, section 2.2), so that one learning rate serves both.
_STEP_OVER_ADAM: Final = 0.2


class Muon(torch.optim.Optimizer):
    """Muon (https://kellerjordan.github.io/posts/muon/): Nesterov momentum, made orthogonal.

    In bf16 it is `torch.optim.Muon` with `match_rms_adamw`, which knows no other number format: without products of
    bf16 in hardware that takes a processor longer than all the rest of a training.

    Args:
        parameters: matrices.
        lr: learning rate.
        weight_decay: of a step, times the learning rate.
        dtype: that matrices are made orthogonal in.
    """

    def __init__(self, parameters: Iterable[Parameter], *, lr: float, weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no loss is computed again, so there is no closure
        """Move the matrices down their gradients."""
        for group in self.param_groups:
            for matrix in group["params"]:
                momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 1 - _MOMENTUM)
                direction = orthogonal(matrix.grad.lerp(momentum, _MOMENTUM), self._dtype)
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(direction, alpha=-group["lr"] * _STEP_OVER_ADAM * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix with the same singular vectors, all its singular values between 0.5 and 1.5, by Newton-Schulz steps.

    Args:
        matrix: (m, n).
        dtype: of the arithmetic and of the result.
    """
    a, b, c = _COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    result = wide.to(dtype)
    result = result / result.norm().clamp(min=_LEAST_NORM)
    for _ in range(_ITERATIONS):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result.T if wide is not matrix else result
