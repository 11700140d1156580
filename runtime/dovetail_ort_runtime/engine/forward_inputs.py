"""What tells the rows of a forward which slots they write and see, in the words of each kind of graph.

A row sees the kept slots, 0 to `num_kept` - 1, and then either, in a chain, all slots up to its own, or, in a tree, the
slots of its ancestors among the rows behind the kept ones, and its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_names import ATTENTION_BIAS
from dovetail_ort_runtime.engine.devices import HostBuffers

NO_ANCESTOR: Final = -1


class ForwardInputs(ABC):
    """Inputs of forwards of one size.

    Attributes:
        fixed: arrays by name that are bound once and written anew for each forward.
        changing: arrays by name that are bound anew for each forward.
    """

    fixed: Mapping[str, NDArray[Any]]
    changing: Mapping[str, NDArray[Any]]

    @abstractmethod
    def fill(self, first_slot: int, num_kept: int, ancestors: TokenArray | None) -> None:
        """Describe the next forward.

        Args:
            first_slot: of row 0; the others follow it.
            num_kept: slots that every row sees; `first_slot` or fewer.
            ancestors: (S, A) int64, the slots of each row's ancestors from the oldest on, `NO_ANCESTOR` behind them;
                None for a chain.
        """


class PortableInputs(ForwardInputs):
    """Lengths and an attention bias: `GroupQueryAttention`, which is causal besides.

    Args:
        num_rows: S.
        no_bias: float32 zeros, as many as S times the slots of the cache or more; the bias of every chain is a view.
        buffers: of the session.
    """

    def __init__(self, num_rows: int, no_bias: FloatArray, buffers: HostBuffers) -> None:
        self._num_rows, self._no_bias = num_rows, no_bias
        self._last_slot: NDArray[np.int32] = buffers.array("seqlens_k", (1,), np.int32)
        self._total: NDArray[np.int32] = buffers.array("total_sequence_length", (), np.int32)
        self.fixed = {"seqlens_k": self._last_slot, "total_sequence_length": self._total}

    def fill(self, first_slot: int, num_kept: int, ancestors: TokenArray | None) -> None:
        """Rows of a tree see by a bias of 0 and of -inf."""
        num_rows, total = self._num_rows, first_slot + self._num_rows
        self._last_slot[0] = total - 1
        self._total[...] = total
        if ancestors is None:
            bias = self._no_bias[: num_rows * total].reshape(1, 1, num_rows, total)
        else:
            bias = tree_bias(first_slot, num_kept, ancestors)
        self.changing = {ATTENTION_BIAS: bias}


class NativeInputs(ForwardInputs):
    """Slots and ancestors: the native `Attention`.

    Args:
        num_rows: S.
        num_ancestors: A; 0 for a chain.
    """

    changing: Mapping[str, NDArray[Any]] = {}

    def __init__(self, num_rows: int, num_ancestors: int) -> None:
        self._lengths = np.zeros(1, dtype=np.int64)
        self._slots = np.zeros(num_rows, dtype=np.int64)
        self._ancestors = np.zeros((num_rows, num_ancestors), dtype=np.int64)
        self._steps = np.arange(num_rows)
        self.fixed = {
            "lengths": self._lengths,
            "sequence_ids": np.zeros(num_rows, dtype=np.int64),
            "slots": self._slots,
            "ancestors": self._ancestors,
        }

    def fill(self, first_slot: int, num_kept: int, ancestors: TokenArray | None) -> None:
        """A chain has no ancestors: its rows see all slots before their own."""
        self._lengths[0] = num_kept
        np.add(self._steps, first_slot, out=self._slots)
        if ancestors is not None:
            self._ancestors[:] = ancestors


def ancestor_slots(parents: TokenArray, first_slot: int) -> TokenArray:
    """(S, A) int64 for `ForwardInputs.fill`, of rows whose parents are earlier rows, or -1.

    Example, parents -1 0 1 0 from slot 10 on: rows of no ancestor, 10, 10 11 and 10.
    """
    known: list[list[int]] = []
    for parent in parents.tolist():
        known.append([] if parent < 0 else [*known[parent], first_slot + parent])
    return padded_ancestors(known)


def padded_ancestors(slots: list[list[int]]) -> TokenArray:
    """(S, A) int64, the lists with `NO_ANCESTOR` behind them.

    A is the longest one's length, rounded up to a power of two: few sizes of forwards stay bound.
    """
    deepest = 1 << (max(1, *map(len, slots)) - 1).bit_length()
    return np.array([[*own, *[NO_ANCESTOR] * (deepest - len(own))] for own in slots], dtype=np.int64)


def tree_bias(first_slot: int, num_kept: int, ancestors: TokenArray) -> FloatArray:
    """(1, 1, S, T) float32, 0 where a row sees a slot, else -inf."""
    num_rows = len(ancestors)
    bias = np.full((num_rows, first_slot + num_rows), -np.inf, dtype=np.float32)
    bias[:, :num_kept] = 0
    rows = np.arange(num_rows)
    bias[rows, first_slot + rows] = 0
    row, place = np.nonzero(ancestors != NO_ANCESTOR)
    bias[row, ancestors[row, place]] = 0
    return bias[None, None]
