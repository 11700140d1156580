"""Weights in files, read when they are used and dropped after: memory holds one matrix, or one slice of the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import linear

from dovetail_ort_runtime.errors import SourceError

_PLAIN_TYPES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_HEAD_ROWS: Final = 8192  # 256 MiB of a head with 4096 columns in float64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredRows:
    """A tensor in a file.

    Attributes:
        shape: shape of the tensor.
        read: `read(start, stop)` gives these rows of the first axis, a new tensor or a view of the mapped file.
    """

    shape: tuple[int, ...]
    read: Callable[[int, int], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Weights:
    """The weights under one prefix, handed out in one number type.

    Attributes:
        tensors: stored tensors by their full names.
        dtype: number type of what is handed out and computed.
        prefix: text that is put before every name that is asked for.
    """

    tensors: dict[str, StoredRows]
    dtype: torch.dtype
    prefix: str = ""

    def block(self, index: int) -> Weights:
        """The weights of one block."""
        return replace(self, prefix=f"model.layers.{index}.")

    def vector(self, name: str, size: int) -> Tensor:
        """A whole tensor of one axis, (size,)."""
        return self._rows(name, (size,), 0, size)

    def project(self, name: str, inputs: Tensor, width: int, *, bias: bool = False) -> Tensor:
        """`inputs` (T, N) times the matrix `name`.weight (width, N), plus `name`.bias (width,): (T, width)."""
        matrix = self._rows(f"{name}.weight", (width, inputs.shape[-1]), 0, width)
        return linear(inputs, matrix, self.vector(f"{name}.bias", width) if bias else None)

    def embed(self, name: str, token_ids: Tensor, width: int) -> Tensor:
        """The rows (T, width) of the tokens; no other row is read."""
        shape = (self.num_rows(name), width)
        return torch.cat([self._rows(name, shape, row, row + 1) for row in token_ids.tolist()])

    def score(self, name: str, inputs: Tensor) -> Tensor:
        """`inputs` (T, E) times the matrix (V, E), some thousand rows of it at a time: (T, V)."""
        shape = (self.num_rows(name), inputs.shape[-1])
        starts = range(0, shape[0], _HEAD_ROWS)
        return torch.cat([linear(inputs, self._rows(name, shape, row, row + _HEAD_ROWS)) for row in starts], dim=-1)

    def num_rows(self, name: str) -> int:
        """Length of a tensor's first axis."""
        return self._find(name).shape[0]

    def _find(self, name: str) -> StoredRows:
        if self.prefix + name not in self.tensors:
            raise SourceError(f"the model's files lack the tensor {self.prefix}{name}; download them again")
        return self.tensors[self.prefix + name]

    def _rows(self, name: str, shape: tuple[int, ...], start: int, stop: int) -> Tensor:
        stored = self._find(name)
        if stored.shape != shape:
            raise SourceError(
                f"the shape of {self.prefix}{name} must be {shape} by the model's settings, got {stored.shape}"
            )
        rows = stored.read(start, min(stop, shape[0]))
        if rows.dtype not in _PLAIN_TYPES:
            raise SourceError(
                f"{self.prefix}{name} must hold plain numbers, got {rows.dtype}; export the model before quantisation"
            )
        return rows.to(self.dtype)
