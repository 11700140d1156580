"""Muon against torch's own, and its orthogonal matrices against a singular value decomposition."""

from __future__ import annotations

import pytest
import torch

from dovetail_ort_export.training.optimisers import Muon, orthogonal

SHAPES = [(48, 48), (32, 96), (96, 32)]


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bf16_ten_steps_are_those_of_torch_bit_for_bit(shape):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimisers = (
        Muon([ours], lr=0.01, dtype=torch.bfloat16),
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(10):
        gradient = torch.randn(shape, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimiser in optimisers:
            optimiser.step()
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, start)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_fp32_singular_vectors_stay_and_singular_values_come_into_the_band(shape):
    generator = torch.Generator().manual_seed(1)
    left, _ = torch.linalg.qr(torch.randn(shape[0], min(shape), generator=generator))
    right, _ = torch.linalg.qr(torch.randn(shape[1], min(shape), generator=generator))
    values = torch.linspace(0.5, 1.0, min(shape))
    result = orthogonal(left @ torch.diag(values) @ right.T, torch.float32)
    inner = left.T @ result @ right
    assert result.dtype == torch.float32
    assert ((inner.diagonal() > 0.5) & (inner.diagonal() < 1.5)).all()
    # In exact arithmetic the vectors stay as they are; float32 adds up to 96 products 15 times in a row.
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), rtol=0, atol=15 * 96 * torch.finfo().eps)
