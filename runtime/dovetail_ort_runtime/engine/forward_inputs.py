"""Inputs that say which slots the rows of a forward write and see, for each kind of graph.

Every row sees the kept slots, 0 to `num_kept` - 1, and its own slot. In a chain it also sees all slots between them. In
a tree it also sees the slots of its ancestors, which come after the kept ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_names import (
    ANCESTORS,
    ATTENTION_BIAS,
    LENGTHS,
    SEQUENCE_IDS,
    SEQUENCE_LENGTHS,
    SLOTS,
    TOTAL_LENGTH,
)
from dovetail_ort_runtime.engine.host_buffers import HostBuffers

NO_ANCESTOR: Final = -1


class ForwardInputs(ABC):
    """The inputs that say which slots rows write and see, for forwards of one size.

    Attributes:
        fixed: arrays by name of the input that are bound once and filled for each forward.
        changing: arrays by name of the input that are bound anew for each forward, as their length changes.
    """

    fixed: Mapping[str, NDArray[Any]]
    changing: Mapping[str, NDArray[Any]]

    @abstractmethod
    def fill(self, first_slot: int, num_kept: int, ancestors: TokenArray | None) -> None:
        """Describe the next forward.

        Args:
            first_slot: slot of row 0; the other rows follow it.
            num_kept: number of slots that every row sees, `first_slot` or fewer.
            ancestors: (S, A) int64, the slots of each row's ancestors from the oldest on, then `NO_ANCESTOR`; None for
                a chain.
        """


class ChainInputs(ForwardInputs):
    """Lengths alone: `GroupQueryAttention` in a graph for chains.

    Args:
        num_rows: S.
        buffers: memory of the host that the session reads.
    """

    changing: Mapping[str, NDArray[Any]] = {}

    def __init__(self, num_rows: int, buffers: HostBuffers) -> None:
        self._num_rows = num_rows
        self._last_slot: NDArray[np.int32] = buffers.array(SEQUENCE_LENGTHS, (1,), np.int32)
        self._total: NDArray[np.int32] = buffers.array(TOTAL_LENGTH, (), np.int32)
        self.fixed = {SEQUENCE_LENGTHS: self._last_slot, TOTAL_LENGTH: self._total}

    def fill(self, first_slot: int, num_kept: int, ancestors: TokenArray | None) -> None:  # noqa: ARG002  a chain's
        """Attention is causal, so a row sees all slots before its own."""
        assert ancestors is None, "a graph for chains knows no trees"
        self._fill_lengths(first_slot + self._num_rows)

    def _fill_lengths(self, total: int) -> None:
        self._last_slot[0] = total - 1
        self._total[...] = total


class PortableInputs(ChainInputs):
    """Lengths and an attention bias: `GroupQueryAttention` in a graph for chains and trees.

    Args:
        num_rows: S.
        no_bias: float32 zeros, as many as S times the slots of the cache or more; the bias of every chain is a view.
        buffers: memory of the host that the session reads.
    """

    def __init__(self, num_rows: int, no_bias: FloatArray, buffers: HostBuffers) -> None:
        super().__init__(num_rows, buffers)
        self._no_bias = no_bias

    def fill(self, first_slot: int, num_kept: int, ancestors: TokenArray | None) -> None:
        """Rows of a tree see where the bias is 0, and do not see where it is -inf."""
        num_rows = self._num_rows
        total = first_slot + num_rows
        self._fill_lengths(total)
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
            LENGTHS: self._lengths,
            SEQUENCE_IDS: np.zeros(num_rows, dtype=np.int64),
            SLOTS: self._slots,
            ANCESTORS: self._ancestors,
        }

    def fill(self, first_slot: int, num_kept: int, ancestors: TokenArray | None) -> None:
        """A chain has no ancestors: its rows see all slots before their own."""
        self._lengths[0] = num_kept
        np.add(self._steps, first_slot, out=self._slots)
        if ancestors is not None:
            self._ancestors[:] = ancestors


def ancestor_slots(parents: TokenArray, first_slot: int) -> TokenArray:
    """Slots of each row's ancestors, (S, A) int64 for `ForwardInputs.fill`.

    Example, parents -1 0 1 0 from slot 10 on: row 0 has no ancestor; the others have 10, 10 and 11, and 10.

    Args:
        parents: (S,) int64, for each row the earlier row that it follows, or -1.
        first_slot: slot of row 0.
    """
    known: list[list[int]] = []
    for parent in parents.tolist():
        known.append([] if parent < 0 else [*known[parent], first_slot + parent])
    return padded_ancestors(known)


def padded_ancestors(slots: list[list[int]]) -> TokenArray:
    """Lists of slots as an array (S, A) int64, with `NO_ANCESTOR` after each list.

    A is the length of the longest list, rounded up to a power of two, so that few sizes of forwards stay bound.
    """
    longest = max(1, *map(len, slots))
    width = 1 << (longest - 1).bit_length()
    return np.array([[*own, *[NO_ANCESTOR] * (width - len(own))] for own in slots], dtype=np.int64)


def tree_bias(first_slot: int, num_kept: int, ancestors: TokenArray) -> FloatArray:
    """Attention bias (1, 1, S, T) float32: 0 where a row sees a slot, else -inf.

    Args:
        first_slot: slot of row 0; the other rows follow it.
        num_kept: number of slots that every row sees.
        ancestors: (S, A) int64, as in `ForwardInputs.fill`.
    """
    num_rows = len(ancestors)
    bias = np.full((num_rows, first_slot + num_rows), -np.inf, dtype=np.float32)
    bias[:, :num_kept] = 0
    rows = np.arange(num_rows)
    bias[rows, first_slot + rows] = 0
    row, place = np.nonzero(ancestors != NO_ANCESTOR)
    bias[row, ancestors[row, place]] = 0
    return bias[None, None]
