"""Rotary positions: the frequencies of each published kind, and the rotation itself.

Frequencies and angles are computed in float32, as every publisher's code does: they are part of what the model was
trained with. At far positions their rounding becomes visible; see `positions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rotation:
    """How queries and keys turn with their position (Su et al., 2021).

    Attributes:
        frequencies: (R / 2,) float32, radians per position; the first R numbers of a head turn, the others stay.
        attention_factor: number that cosine and sine are multiplied by.
        neighbours: whether pairs are the numbers 2 i and 2 i + 1 of a head, as in Meta's and llama.cpp's code; if not,
            number i is paired with i + R / 2.
    """

    frequencies: Tensor
    attention_factor: float = 1.0
    neighbours: bool = False

    def turn(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Rotate (T, H, D) by the angles of `positions`, (T,) int64."""
        angles = positions[:, None, None].float() * self.frequencies
        cosine = (angles.cos() * self.attention_factor).to(heads.dtype)
        sine = (angles.sin() * self.attention_factor).to(heads.dtype)
        half = len(self.frequencies)
        turning = heads[..., : 2 * half]
        still = heads[..., 2 * half :]
        if self.neighbours:
            axis = -1
            pairs = turning.reshape(*turning.shape[:-1], half, 2)
        else:
            axis = -2
            pairs = turning.reshape(*turning.shape[:-1], 2, half)
        first, second = pairs.unbind(axis)
        turned = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=axis)
        return torch.cat((turned.flatten(-2), still), dim=-1)


def plain_frequencies(base: float, size: int) -> Tensor:
    """base^(-2 i / size) for i = 0 ... size / 2 - 1."""
    return 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float32) / size)


def llama3_frequencies(
    frequencies: Tensor, factor: float, low_factor: float, high_factor: float, original_context: float
) -> Tensor:
    """Slow down wavelengths over original_context / low_factor, keep those under original_context / high_factor.

    Between the two, the frequency passes smoothly from one to the other (Llama 3.1's reference code).
    """
    turns = original_context * frequencies / (2 * math.pi)  # in the original context
    kept = ((turns - low_factor) / (high_factor - low_factor)).clamp(0, 1)
    return (1 - kept) * frequencies / factor + kept * frequencies


def yarn_frequencies(
    base: float,
    size: int,
    factor: float,
    original_context: float,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Tensor:
    """Keep pairs that turn over `beta_fast` times in the original context, slow down those under `beta_slow` times.

    Between the two, the share falls linearly with the pair's index (Peng et al., 2023, "NTK-by-parts"); `truncate`
    moves the two ends outwards to whole indices.
    """
    first = _pair_that_turns(beta_fast, base, size, original_context)
    last = _pair_that_turns(beta_slow, base, size, original_context)
    if truncate:
        first = math.floor(first)
        last = math.ceil(last)
    first = max(first, 0)
    last = min(last, size - 1)
    pairs = torch.arange(size // 2, dtype=torch.float32)
    kept = 1 - ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)
    frequencies = plain_frequencies(base, size)
    return frequencies / factor * (1 - kept) + frequencies * kept


def _pair_that_turns(times: float, base: float, size: int, original_context: float) -> float:
    """Index, as a real number, of the pair that turns so many times in the original context."""
    return size * math.log(original_context / (times * 2 * math.pi)) / (2 * math.log(base))


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """0.1 mscale ln(factor) + 1, which YaRN's paper found by measurement; 1 where nothing is stretched."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def longrope_attention_factor(factor: float, original_context: float) -> float:
    """sqrt(1 + ln(factor) / ln(original context)) (Ding et al., 2024); 1 where nothing is stretched."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_context))


def divided(frequencies: Tensor, factors: Sequence[float] | Tensor) -> Tensor:
    """Frequencies, each divided by its own factor."""
    return frequencies / torch.as_tensor(factors, dtype=torch.float32)
