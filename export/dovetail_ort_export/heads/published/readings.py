"""The ways to understand a head whose configuration leaves something open. It knows no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

from dovetail_ort_runtime.errors import SourceError

# Publishers number a level by the block that reads it, or by the block that gives it.
BEFORE_BLOCK: Final = 0
AFTER_BLOCK: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One way to understand a head.

    Attributes:
        levels: numbers of the target's levels, in the order of the fusion's inputs; level i is the input of block i.
            Empty for EAGLE-1 and 2, which read the state after the target's final norm.
        norm_before_residual: whether the residual of the first block is the feature after its norm.
        feeds_back_norm: whether later steps of a chain read the state after the final norm. The first step does not
            depend on it.
    """

    levels: tuple[int, ...] = ()
    norm_before_residual: bool = False
    feeds_back_norm: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What a configuration says of a head's reading, the likeliest possibility of each first.

    Attributes:
        layer_ids: numbers of layers in the configuration; None if it has none.
        offsets: what is added to a number of the configuration to get a level: `BEFORE_BLOCK`, `AFTER_BLOCK` or both.
        norm_before_residual: possible values of `Reading.norm_before_residual`.
        feeds_back_norm: possible values of `Reading.feeds_back_norm`.
    """

    layer_ids: tuple[int, ...] | None = None
    offsets: tuple[int, ...] = (BEFORE_BLOCK,)
    norm_before_residual: tuple[bool, ...] = (False,)
    feeds_back_norm: tuple[bool, ...] = (False,)

    def readings(self, num_layers: int) -> tuple[Reading, ...]:
        """The readings for a target of so many blocks, the likeliest one first.

        Example: numbers 1, 14 and 24 of 28 blocks are levels 2, 15 and 25, or else levels 1, 14 and 24.

        Raises:
            SourceError: the target has too few blocks.
        """
        found = tuple(
            Reading(levels=levels, norm_before_residual=before_residual, feeds_back_norm=feeds_back)
            for levels, before_residual, feeds_back in product(
                self._levels(num_layers), self.norm_before_residual, self.feeds_back_norm
            )
        )
        if not found:
            raise SourceError(
                f"the layers that the head reads must be among the target's {num_layers}, got "
                f"{_listed(self._ids(num_layers))}; is it the head of another model?"
            )
        return found

    def _ids(self, num_layers: int) -> tuple[int, ...]:
        """The configuration's numbers, or those of EAGLE's code (`modeling_llama_kv.py`), a level's number each."""
        return self.layer_ids or (2, num_layers // 2, num_layers - 3)

    def _levels(self, num_layers: int) -> list[tuple[int, ...]]:
        possible = [tuple(number + offset for number in self._ids(num_layers)) for offset in self.offsets]
        return [levels for levels in possible if min(levels) >= 0 and max(levels) <= num_layers]


def offsets_by(layer_ids: tuple[int, ...]) -> tuple[int, ...]:
    """What numbers of layers may mean where a publisher's convention is not known, the likeliest first.

    The trainers that count after the block begin with 1 by default, those that count before it with 2: both mean the
    same level.
    """
    return (AFTER_BLOCK, BEFORE_BLOCK) if layer_ids[0] == 1 else (BEFORE_BLOCK, AFTER_BLOCK)


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
