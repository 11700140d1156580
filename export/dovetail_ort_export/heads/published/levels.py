"""The levels of the target that a published head reads, and what it makes of them, by its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dovetail_ort_export.heads.config import BlockConfig
from dovetail_ort_export.heads.level_fusion import LevelFusionConfig
from dovetail_ort_export.heads.published.keys import Keys
from dovetail_ort_export.heads.published.layers import SIZE
from dovetail_ort_export.heads.published.publishers import DEEPSPEC, MODEL_OPTIMIZER, SPECFORGE, SPECULATORS
from dovetail_ort_export.heads.published.readings import AFTER_BLOCK, BEFORE_BLOCK, Choices, offsets_by
from dovetail_ort_export.source.rules import Number, Truth
from dovetail_ort_runtime.errors import SourceError

_DEFAULT_NUM_LEVELS: Final = 3
_LAYER_IDS: Final = ("eagle_aux_hidden_state_layer_ids", "aux_hidden_states_layer_ids", "target_layer_ids")


@dataclass(frozen=True, slots=True)
class _LayerIds:
    """A list of layers' numbers."""

    @property
    def words(self) -> str:
        """What is allowed."""
        return "a list of whole numbers of -1 or more"

    def allows(self, value: Any) -> bool:
        """Whether a value is such a list."""
        number = Number(whole=True, least=-1)
        return isinstance(value, list) and all(map(number.allows, value))


def read_layer_ids(keys: Keys) -> tuple[int, ...] | None:
    """The numbers of layers, under whichever key they stand; None if they are not stated.

    Raises:
        SourceError: they are no numbers of layers, or differ from key to key.
    """
    found = {key: keys.take(key, _LayerIds()) for key in _LAYER_IDS}
    stated = [tuple(ids) for ids in found.values() if ids]
    if len(set(stated)) > 1:
        raise SourceError(f"the head's layers must be stated once, got {' and '.join(map(str, stated))}")
    return stated[0] if stated else None


def read_level_fusion(
    keys: Keys, shapes: Mapping[str, tuple[int, ...]], block: BlockConfig, layer_ids: tuple[int, ...] | None
) -> LevelFusionConfig:
    """What a head makes of the levels.

    Args:
        keys: the configuration.
        shapes: shapes of the head's tensors by canonical names.
        block: shape of the head's blocks.
        layer_ids: numbers of layers in the configuration, or None.

    Raises:
        SourceError: there are norms of both kinds, or `fc.weight` does not fit the number of levels.
    """
    norms_all = keys.take("norm_before_fc", Truth(), "input_norm.weight" in shapes)
    norms_each = keys.take("fc_norm", Truth(), "fc_norm.0.weight" in shapes)
    if norms_all and norms_each:
        raise SourceError("a head must have either norm_before_fc or fc_norm, got both")
    num_levels = _DEFAULT_NUM_LEVELS if layer_ids is None else len(layer_ids)
    return LevelFusionConfig(
        num_levels=num_levels,
        level_size=_level_size(keys, shapes, num_levels),
        feature_size=block.hidden_size,
        norm="all" if norms_all else "each" if norms_each else "none",
        norm_epsilon=block.norm_epsilon,
        bias=keys.take("bias", Truth(), "fc.bias" in shapes),
    )


def _level_size(keys: Keys, shapes: Mapping[str, tuple[int, ...]], num_levels: int) -> int:
    """Hidden size of the target: as the configuration says, or else as wide as the fusion reads it."""
    stated = keys.take("target_hidden_size", SIZE)
    if stated is not None:
        return int(stated)
    shape = shapes.get("fc.weight", ())
    if len(shape) != 2 or shape[1] % num_levels:
        raise SourceError(
            f"fc.weight of an EAGLE-3 head must have {num_levels} levels of its target as inputs, got "
            f"{' x '.join(map(str, shape)) or 'no such tensor'}"
        )
    return shape[1] // num_levels


def read_choices(keys: Keys, publisher: str, layer_ids: tuple[int, ...] | None) -> Choices:
    """What the configuration says of the ways to read a head.

    Args:
        keys: the configuration.
        publisher: who wrote it, one of the names in `publishers`.
        layer_ids: numbers of layers in it, or None.

    Raises:
        SourceError: the head has no final norm.
    """
    return Choices(
        layer_ids=layer_ids,
        offsets=_offsets(publisher, layer_ids),
        norm_before_residual=_norm_before_residual(keys, publisher),
        feeds_back_norm=_feeds_back_norm(keys, publisher),
    )


def _offsets(publisher: str, layer_ids: tuple[int, ...] | None) -> tuple[int, ...]:
    if layer_ids is None:
        return (BEFORE_BLOCK,)  # EAGLE's own numbers
    if publisher == DEEPSPEC:
        return (AFTER_BLOCK,)
    return offsets_by(layer_ids)


def _norm_before_residual(keys: Keys, publisher: str) -> tuple[bool, ...]:
    """What the configuration says; without a word, speculators' older heads have it and those of others have not."""
    stated = keys.take("norm_before_residual", Truth())
    if stated is not None:
        return (stated,)
    if publisher == DEEPSPEC:
        return (False,)
    return (True, False) if publisher == SPECULATORS else (False, True)


def _feeds_back_norm(keys: Keys, publisher: str) -> tuple[bool, ...]:
    """Speculators means by `norm_output` what is fed back; SpecForge means the norm before the logits."""
    stated = keys.take("norm_output", Truth())
    if publisher == SPECULATORS:
        return (bool(stated),)
    if stated is False and publisher in (SPECFORGE, MODEL_OPTIMIZER):
        raise SourceError("norm_output of a draft head must be true, got False: a head without final norm is not built")
    return (False, True) if stated else (False,)
