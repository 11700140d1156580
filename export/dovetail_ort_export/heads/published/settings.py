"""The settings of a published head, all of them understood. It reads names of tensors, but no tensor.

Where a configuration does not say whether a head has a part, the names of its tensors do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from dovetail_ort_export.heads.config import BlockConfig
from dovetail_ort_export.heads.level_fusion import LevelFusionConfig
from dovetail_ort_export.heads.published.keys import Keys
from dovetail_ort_export.heads.published.layers import check_window, read_block, read_num_layers, refuse_new_parts
from dovetail_ort_export.heads.published.levels import read_choices, read_layer_ids, read_level_fusion
from dovetail_ort_export.heads.published.publishers import (
    DEEPSPEC,
    NEUTRAL,
    SPECULATORS,
    flattened,
    layer_type,
    publisher_of,
)
from dovetail_ort_export.heads.published.readings import Choices
from dovetail_ort_export.source.rotary import ROTARY_KEYS, Rotary, read_rotary
from dovetail_ort_export.source.rules import AnyOf, Number, Truth
from dovetail_ort_runtime.checks import must_be_one_of
from dovetail_ort_runtime.errors import SourceError

EAGLE: Final = "eagle"
EAGLE3: Final = "eagle3"

_COUNT: Final = Number(whole=True, least=1)
# Layers that have the parts of these networks, by their `model_type`.
_LAYER_TYPES: Final = ("llama", "qwen2", "qwen3", "mistral")
# speculators writes only what differs from the defaults of transformers' class.
_CLASS_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama": MappingProxyType(
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
        }
    ),
    "qwen3": MappingProxyType(
        {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "max_position_embeddings": 32768,
        }
    ),
}
_DEFAULT_POSITIONS: Final = 2048


@dataclass(frozen=True, slots=True)
class _Anything:
    """Whatever a program wrote that nothing here depends on."""

    @property
    def words(self) -> str:
        """What is allowed."""
        return "anything"

    def allows(self, value: Any) -> bool:  # noqa: ARG002  a rule's signature
        """Whether a value is allowed."""
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedConfig:
    """A configuration that is understood.

    Attributes:
        publisher: who wrote it, one of the names in `publishers`.
        form: `eagle` for EAGLE-1 and 2, `eagle3`.
        block: shape of the head's blocks.
        num_layers: M, number of blocks.
        level_fusion: what makes a feature of levels; None for the form `eagle`.
        fusion_bias: whether the form `eagle` adds a bias where it joins feature and embedding.
        rotary: the head's own rotary settings.
        max_positions: `max_position_embeddings`, which some kinds of rotation compute with.
        target_hidden_size: E of the target.
        target_vocabulary_size: V of the target.
        draft_vocabulary_size: Vd, number of tokens that the head can draft.
        num_target_layers: L of the target where the configuration says it, or None.
        has_tied_ends: whether an embedding of the head's own is its lm_head, unless there is a tensor for that.
        choices: what the configuration says of the readings.
    """

    publisher: str
    form: str
    block: BlockConfig
    num_layers: int
    level_fusion: LevelFusionConfig | None
    fusion_bias: bool
    rotary: Rotary
    max_positions: int
    target_hidden_size: int
    target_vocabulary_size: int
    draft_vocabulary_size: int
    num_target_layers: int | None
    has_tied_ends: bool
    choices: Choices


def read_settings(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> PublishedConfig:
    """Understand a configuration.

    Args:
        config: content of `config.json`.
        shapes: shapes of the head's tensors by canonical names.

    Raises:
        SourceError: the head is of another kind, or a setting is not understood; the message names it.
    """
    flat = flattened(config)
    publisher = publisher_of(flat)
    layers = layer_type(config)
    must_be_one_of("model_type of a draft head's layers", layers, _LAYER_TYPES, error=SourceError)
    form = EAGLE3 if "layers.0.hidden_norm.weight" in shapes else EAGLE
    defaults = _CLASS_DEFAULTS.get(layers, {}) if publisher == SPECULATORS else {}
    keys = Keys({**defaults, **flat})
    keys.drop("transformer_layer_config", "eagle_config", "architectures", "model_type")
    for key, rule in NEUTRAL.items():
        keys.take(key, rule)
    block = read_block(keys, shapes, needs_qk_norm=layers == "qwen3" and publisher in (SPECULATORS, DEEPSPEC))
    if form == EAGLE:
        refuse_new_parts(block)
    layer_ids = read_layer_ids(keys)
    if form == EAGLE and layer_ids is not None:
        raise SourceError(f"an EAGLE-1 or 2 head must read hidden states alone, got the layers {layer_ids}")
    num_layers = read_num_layers(keys)
    vocabulary_size = keys.need("vocab_size", _COUNT)
    level_fusion = read_level_fusion(keys, shapes, block, layer_ids) if form == EAGLE3 else None
    choices = read_choices(keys, publisher, layer_ids) if form == EAGLE3 else Choices()
    result = PublishedConfig(
        publisher=publisher,
        form=form,
        block=block,
        num_layers=num_layers,
        level_fusion=level_fusion,
        fusion_bias=form == EAGLE and keys.take("bias", Truth(), "fc.bias" in shapes),
        rotary=read_rotary(flat, block.head_size),
        max_positions=keys.take("max_position_embeddings", Number(whole=True, least=2), _DEFAULT_POSITIONS),
        target_hidden_size=block.hidden_size if level_fusion is None else level_fusion.level_size,
        target_vocabulary_size=vocabulary_size,
        draft_vocabulary_size=_draft_vocabulary_size(keys, vocabulary_size),
        num_target_layers=keys.take("num_target_layers", _COUNT),
        # EAGLE-1 and 2 score with their target's head, whatever was copied from the target's configuration.
        has_tied_ends=keys.take("tie_word_embeddings", Truth(), default=False) and form == EAGLE3,
        choices=choices,
    )
    keys.drop(*ROTARY_KEYS)
    _check_speculators(keys)
    check_window(keys)
    keys.refuse_rest()
    return result


def _draft_vocabulary_size(keys: Keys, vocabulary_size: int) -> int:
    stated = [keys.take(key, _COUNT) for key in ("draft_vocab_size", "truncated_vocab_size")]
    sizes = {size for size in stated if size is not None} or {vocabulary_size}
    if len(sizes) > 1:
        raise SourceError(f"draft_vocab_size and truncated_vocab_size must be equal, got {stated[0]} and {stated[1]}")
    size = sizes.pop()
    if size > vocabulary_size:
        raise SourceError(f"draft_vocab_size must be at most vocab_size, {vocabulary_size}, got {size}")
    return int(size)


def _check_speculators(keys: Keys) -> None:
    """Refuse another algorithm of speculators; what its settings say of proposals is for the program that runs it."""
    keys.take("speculators_model_type", AnyOf((EAGLE3,)))
    settings: Any = keys.take("speculators_config", _Anything(), {})
    algorithm = settings.get("algorithm") if isinstance(settings, Mapping) else settings
    if algorithm not in (None, EAGLE3):
        raise SourceError(f"algorithm in speculators_config must be {EAGLE3}, got {algorithm!r:.60}")
