"""Check every setting of a configuration: it is understood, known to be harmless, or refused.

Only what is understood reaches transformers. A key that is unknown here may change the mathematics, so it is an error
unless the user asks to ignore it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from dovetail_ort_export.source.families import FAMILIES, Family
from dovetail_ort_export.source.families.family import DIMENSIONS
from dovetail_ort_export.source.harmless_settings import HARMLESS_KEYS
from dovetail_ort_export.source.rotary import ROTARY_KEYS, Rotary, read_rotary
from dovetail_ort_export.source.rules import Number
from dovetail_ort_runtime.checks import must_be_one_of
from dovetail_ort_runtime.errors import InputError, SourceError

# Keys that change the model, with the values that change nothing.
NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "is_encoder_decoder": (False,),
        "is_decoder": (True, False),
        "add_cross_attention": (False,),
        "tie_encoder_decoder": (False,),
        "pruned_heads": ({},),
        "rope_interleaved": (False,),
    }
)

_HEAD_SIZE_STEP: Final = 16  # GroupQueryAttention requires it where it rotates


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A configuration that is understood.

    Attributes:
        family: family of the model.
        values: keys and values for transformers' configuration of the family, in the older spelling.
        rotary: how positions turn queries and keys.
        max_context: largest number of tokens of prompt and answer.
        ignored: keys of the configuration that are ignored because the user asked for it.
    """

    family: Family
    values: Mapping[str, Any]
    rotary: Rotary
    max_context: int
    ignored: tuple[str, ...]


def read_settings(config: Mapping[str, Any], max_context: int | None = None, ignore: Sequence[str] = ()) -> Settings:
    """Read a configuration, and check every key of it.

    Args:
        config: content of `config.json`.
        max_context: largest number of tokens of prompt and answer; the model's own maximum if None.
        ignore: keys that are ignored although export does not know them.

    Raises:
        SourceError: the family or a setting is not covered; the message names it, and what is covered.
        InputError: `max_context` exceeds what the settings reach, or `ignore` names a key that is understood.
    """
    family = _family(config)
    ignored = _ignored(config, family, ignore)
    kept = {key: value for key, value in config.items() if key not in ignored}
    _check_keys(kept, family)
    values = {**family.defaults, **_understood(kept, family)}
    size = _head_size(values, family)
    rotary = read_rotary(kept, size)
    context = _max_context(values, rotary, max_context)
    scaling = rotary.scaling(context, values["max_position_embeddings"])
    values |= {"rope_theta": rotary.theta, "rope_scaling": scaling}
    return Settings(family=family, values=values, rotary=rotary, max_context=context, ignored=ignored)


def _family(config: Mapping[str, Any]) -> Family:
    name = config.get("model_type")
    if name is None:
        raise SourceError("config.json must have a model_type, got none; is this a model of transformers?")
    must_be_one_of("the model family", name, FAMILIES, error=SourceError)
    return FAMILIES[name]


def _is_understood(key: str, family: Family) -> bool:
    """Whether export knows what a key changes."""
    has_rule = family.rule(key) is not None or key in ROTARY_KEYS
    return has_rule or key in family.neutral or key in NEUTRAL


def _ignored(config: Mapping[str, Any], family: Family, ignore: Sequence[str]) -> tuple[str, ...]:
    """The keys of a configuration that the user asks to ignore."""
    for key in ignore:
        if _is_understood(key, family):
            raise InputError(
                f"ignore_settings must name keys that export does not know, got {key!r}, which changes what "
                f"{family.model_type} computes"
            )
    return tuple(key for key in config if key in ignore)


def _check_keys(config: Mapping[str, Any], family: Family) -> None:
    """Refuse keys that export does not know, and values that change the model."""
    unknown = []
    for key, value in config.items():
        if value is None or value in ({}, []) or key in HARMLESS_KEYS:  # an empty value says nothing
            continue
        neutral = family.neutral.get(key, NEUTRAL.get(key))
        if neutral is None:
            if not _is_understood(key, family):
                unknown.append(key)
        elif value not in neutral:
            shown = " or ".join(map(str, neutral))
            raise SourceError(f"{key} of {family.model_type} must be {shown}, got {value!r:.60}; it is not built")
    if unknown:
        raise SourceError(_unknown_keys(config, unknown, family))


def _unknown_keys(config: Mapping[str, Any], unknown: Sequence[str], family: Family) -> str:
    """The error message for a configuration with keys that export does not know."""
    shown = unknown[:3]
    first = ", ".join(f"{key} = {config[key]!r:.40}" for key in shown)
    others = " and others" if len(unknown) > len(shown) else ""
    flags = " ".join(f"--ignore-setting {key}" for key in shown)
    return (
        f"every setting must be one that export knows, got {first}{others} in the configuration of "
        f"{family.model_type}; if none of them changes what the model computes: {flags}"
    )


def _understood(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The settings that change the mathematics, each within its rule."""
    found = {}
    for key, value in config.items():
        rule = family.rule(key)
        if rule is None or (value is None and not rule.allows(None)):
            continue
        if not rule.allows(value):
            raise SourceError(f"{key} of {family.model_type} must be {rule.words}, got {value!r:.60}")
        # transformers 5 takes no 1 for 1.0.
        found[key] = float(value) if isinstance(rule, Number) and not rule.whole else value
    for key in DIMENSIONS:
        if key not in found:
            raise SourceError(f"config.json must have the key {key!r}, which is missing; is this a whole model?")
    return found


def _head_size(values: dict[str, Any], family: Family) -> int:
    """Head size D. If the values have no number of key-value heads, they get one head for each query head."""
    heads = values["num_attention_heads"]
    if values.get("num_key_value_heads") is None:
        values["num_key_value_heads"] = heads
    kv_heads = values["num_key_value_heads"]
    if heads % kv_heads:
        raise SourceError(f"num_attention_heads must be a multiple of num_key_value_heads, got {heads} and {kv_heads}")
    size = values.get("head_dim")
    if size is None:
        if values["hidden_size"] % heads:
            raise SourceError(
                f"hidden_size must be a multiple of num_attention_heads where there is no head_dim, got "
                f"{values['hidden_size']} and {heads}"
            )
        size = values["hidden_size"] // heads
    if size % _HEAD_SIZE_STEP:
        raise SourceError(f"the head size of {family.model_type} must be a multiple of {_HEAD_SIZE_STEP}, got {size}")
    return int(size)


def _max_context(values: Mapping[str, Any], rotary: Rotary, asked: int | None) -> int:
    """The largest context of the bundle: the number that is asked for, or the model's own maximum."""
    own = values.get("max_position_embeddings")
    if own is None:
        raise SourceError(
            "config.json must have the key 'max_position_embeddings', which is missing; add it with the longest text, "
            "in tokens, that the model was trained for"
        )
    if rotary.kind == "dynamic" and (asked is None or asked > own):
        # In a longer text, the angles of its first tokens would change.
        raise SourceError(
            f"max_context must be at most {own} where rope_type is dynamic, whose angles change with the length of a "
            f"longer text, got {asked or 'none'}; export with --max-context {own}"
        )
    longest = rotary.longest_context(own)
    if asked is not None and asked > longest:
        raise InputError(f"max_context must be at most the model's {longest}, got {asked}")
    context = own if asked is None else asked
    _check_window(_window(values), context)
    return int(context)


def _check_window(window: int | None, context: int) -> None:
    """Refuse a context beyond a sliding window.

    GroupQueryAttention's local window counts slots of the cache. That is right for chains. In a tree, siblings take
    slots between a draft token and its ancestors, so there it is wrong.
    """
    if window is not None and window < context:
        raise SourceError(
            f"max_context must be at most the sliding window of {window} tokens, got {context}; "
            f"export with --max-context {window}"
        )


def _window(values: Mapping[str, Any]) -> int | None:
    """The sliding window of the blocks that have one, in tokens; None if all blocks see everything."""
    window = values.get("sliding_window") if values.get("use_sliding_window", True) else None
    layer_types = values.get("layer_types")
    num_layers = values["num_hidden_layers"]
    if layer_types is None:
        slides = values.get("max_window_layers", 0) < num_layers
    else:
        slides = "sliding_attention" in layer_types
        if len(layer_types) != num_layers:
            raise SourceError(f"layer_types must name each of {num_layers} layers, got {len(layer_types)}")
        if slides and window is None:
            raise SourceError("layer_types must name no sliding_attention where there is no window, got such layers")
    return window if slides else None
