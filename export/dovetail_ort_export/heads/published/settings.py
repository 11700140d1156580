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
from dovetail_ort_export.heads.published.publishers import (
    DEEPSPEC,
    MODEL_OPTIMIZER,
    NEUTRAL,
    SPECFORGE,
    SPECULATORS,
    flattened,
    layer_type,
    publisher_of,
)
from dovetail_ort_export.heads.published.readings import AFTER_BLOCK, BEFORE_BLOCK, Choices, offsets_by
from dovetail_ort_export.source.rotary import ROTARY_KEYS, Rotary, read_rotary
from dovetail_ort_export.source.rules import AnyOf, Listed, Number, Truth
from dovetail_ort_runtime.checks import must_be_one_of
from dovetail_ort_runtime.errors import SourceError

EAGLE: Final = "eagle"
EAGLE3: Final = "eagle3"

_COUNT: Final = Number(whole=True, least=1)
_HEAD_SIZE_STEP: Final = 16  # GroupQueryAttention's, where it rotates
_MOST_BLOCKS: Final = 6
_DEFAULT_NUM_LEVELS: Final = 3
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
_DEFAULT_EPSILON: Final = 1e-6
_DEFAULT_POSITIONS: Final = 2048
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
    block = _block(keys, shapes, needs_qk_norm=layers == "qwen3" and publisher in (SPECULATORS, DEEPSPEC))
    if form == EAGLE:
        _refuse_new_parts(block)
    layer_ids = _layer_ids(keys)
    num_layers = keys.need("num_hidden_layers", Number(whole=True, least=1))
    _check_num_layers(keys, num_layers)
    vocabulary_size = keys.need("vocab_size", _COUNT)
    level_fusion = _level_fusion(keys, shapes, block, layer_ids) if form == EAGLE3 else None
    choices = _choices(keys, publisher, layer_ids) if form == EAGLE3 else Choices()
    result = PublishedConfig(
        publisher=publisher,
        form=form,
        block=block,
        num_layers=num_layers,
        level_fusion=level_fusion,
        fusion_bias=form == EAGLE and _stated_or_seen(keys, ("bias",), "fc.bias", shapes),
        rotary=read_rotary(flat, block.head_size),
        max_positions=keys.take("max_position_embeddings", Number(whole=True, least=2), _DEFAULT_POSITIONS),
        target_hidden_size=block.hidden_size if level_fusion is None else level_fusion.level_size,
        target_vocabulary_size=vocabulary_size,
        draft_vocabulary_size=_draft_vocabulary_size(keys, vocabulary_size),
        num_target_layers=keys.take("num_target_layers", _COUNT),
        has_tied_ends=keys.take("tie_word_embeddings", Truth(), default=False),
        choices=choices,
    )
    keys.drop(*ROTARY_KEYS)
    _check_speculators(keys)
    _check_window(keys)
    keys.refuse_rest()
    return result


def _block(keys: Keys, shapes: Mapping[str, Any], *, needs_qk_norm: bool) -> BlockConfig:
    hidden_size = keys.need("hidden_size", _COUNT)
    num_heads = keys.need("num_attention_heads", _COUNT)
    num_kv_heads = keys.take("num_key_value_heads", _COUNT, num_heads)
    if num_heads % num_kv_heads:
        raise SourceError(
            f"num_attention_heads must be a multiple of num_key_value_heads, got {num_heads} and {num_kv_heads}"
        )
    keys.take("hidden_act", AnyOf(("silu", "swish")))
    attention = "layers.0.self_attn"
    stated_bias = keys.take("attention_bias", Truth())
    return BlockConfig(
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=_head_size(keys, hidden_size, num_heads),
        intermediate_size=keys.need("intermediate_size", _COUNT),
        norm_epsilon=keys.take("rms_norm_eps", Number(above=0), _DEFAULT_EPSILON),
        qkv_bias=_qkv_bias(keys, stated_bias, f"{attention}.q_proj.bias" in shapes),
        output_bias=stated_bias is not False and f"{attention}.o_proj.bias" in shapes,
        mlp_bias=_stated_or_seen(keys, ("mlp_bias",), "layers.0.mlp.gate_proj.bias", shapes),
        qk_norm=needs_qk_norm or f"{attention}.q_norm.weight" in shapes,
    )


def _refuse_new_parts(block: BlockConfig) -> None:
    """Refuse parts that no EAGLE-1 or 2 head has."""
    parts = {"output_bias": block.output_bias, "mlp_bias": block.mlp_bias, "norms of queries and keys": block.qk_norm}
    found = [part for part, is_there in parts.items() if is_there]
    if found:
        raise SourceError(f"an EAGLE-1 or 2 head must have plain Llama layers, got {' and '.join(found)}")


def _head_size(keys: Keys, hidden_size: int, num_heads: int) -> int:
    size = keys.take("head_dim", _COUNT)
    if size is None:
        if hidden_size % num_heads:
            raise SourceError(
                "hidden_size must be a multiple of num_attention_heads where there is no head_dim, got "
                f"{hidden_size} and {num_heads}"
            )
        size = hidden_size // num_heads
    if size % _HEAD_SIZE_STEP:
        raise SourceError(f"the head size of a draft head must be a multiple of {_HEAD_SIZE_STEP}, got {size}")
    return int(size)


def _qkv_bias(keys: Keys, attention_bias: bool | None, is_seen: bool) -> bool:
    """Whether queries, keys and values have a bias, by either of two keys."""
    qkv_bias = keys.take("qkv_bias", Truth())
    stated = {value for value in (attention_bias, qkv_bias) if value is not None}
    if len(stated) > 1:
        raise SourceError(
            f"attention_bias and qkv_bias must be equal, got {attention_bias} and {qkv_bias}; keep the right one"
        )
    return stated.pop() if stated else is_seen


def _stated_or_seen(keys: Keys, names: tuple[str, ...], tensor: str, shapes: Mapping[str, Any]) -> bool:
    """Whether a head has a part: as the configuration says, or else by the name of the part's tensor."""
    values = [keys.take(name, Truth()) for name in names]
    stated = [value for value in values if value is not None]
    return bool(stated[0]) if stated else tensor in shapes


def _layer_ids(keys: Keys) -> tuple[int, ...] | None:
    """The numbers of layers, under whichever key they stand; None if they are not stated."""
    found = {key: keys.take(key, _LayerIds()) for key in _LAYER_IDS}
    stated = [tuple(ids) for ids in found.values() if ids]
    if len(set(stated)) > 1:
        raise SourceError(f"the head's layers must be stated once, got {' and '.join(map(str, stated))}")
    return stated[0] if stated else None


def _check_num_layers(keys: Keys, num_layers: int) -> None:
    if num_layers > _MOST_BLOCKS:
        raise SourceError(
            f"num_hidden_layers of a draft head must be at most {_MOST_BLOCKS}, got {num_layers}; "
            "is this a whole model?"
        )
    keys.take("draft_num_hidden_layers", AnyOf((num_layers,)))


def _level_fusion(
    keys: Keys, shapes: Mapping[str, tuple[int, ...]], block: BlockConfig, layer_ids: tuple[int, ...] | None
) -> LevelFusionConfig:
    norms_all = _stated_or_seen(keys, ("norm_before_fc",), "input_norm.weight", shapes)
    norms_each = _stated_or_seen(keys, ("fc_norm",), "fc_norm.0.weight", shapes)
    if norms_all and norms_each:
        raise SourceError("a head must have either norm_before_fc or fc_norm, got both")
    num_levels = _DEFAULT_NUM_LEVELS if layer_ids is None else len(layer_ids)
    return LevelFusionConfig(
        num_levels=num_levels,
        level_size=_level_size(keys, shapes, num_levels),
        feature_size=block.hidden_size,
        norm="all" if norms_all else "each" if norms_each else "none",
        norm_epsilon=block.norm_epsilon,
        bias=_stated_or_seen(keys, ("bias",), "fc.bias", shapes),
    )


def _level_size(keys: Keys, shapes: Mapping[str, tuple[int, ...]], num_levels: int) -> int:
    """Hidden size of the target: as the configuration says, or else as wide as the fusion reads it."""
    stated = keys.take("target_hidden_size", _COUNT)
    if stated is not None:
        return int(stated)
    shape = shapes.get("fc.weight", ())
    if len(shape) != 2 or shape[1] % num_levels:
        raise SourceError(
            f"fc.weight of an EAGLE-3 head must have {num_levels} levels of its target as inputs, got "
            f"{' x '.join(map(str, shape)) or 'no such tensor'}"
        )
    return shape[1] // num_levels


def _choices(keys: Keys, publisher: str, layer_ids: tuple[int, ...] | None) -> Choices:
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


def _check_window(keys: Keys) -> None:
    """Refuse layers that see a part of the text only."""
    window = keys.take("sliding_window", Number(whole=True))
    uses_window = keys.take("use_sliding_window", Truth())
    keys.take("max_window_layers", Number(whole=True))
    layer_types = keys.take("layer_types", Listed(("full_attention", "sliding_attention")))
    if layer_types is not None:
        slides = "sliding_attention" in layer_types
    else:
        slides = window is not None and uses_window is not False
    if slides:
        raise SourceError(f"a draft head must see the whole text, got a sliding window of {window} tokens")
