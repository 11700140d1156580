"""From the rotary settings of a config.json, in the spellings of transformers 4 and 5, to a `Rotation`."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor

from dovetail_ort_export.checking.witness.rotary import (
    Rotation,
    divided,
    llama3_frequencies,
    longrope_attention_factor,
    plain_frequencies,
    yarn_attention_factor,
    yarn_frequencies,
)
from dovetail_ort_export.checking.witness.values import number, number_or
from dovetail_ort_runtime.errors import SourceError

_FORMER_NAMES: Final = {"su": "longrope"}  # the name in Microsoft's first Phi-3


def read_rotation(known: dict[str, Any], layer_type: str, size: int, max_context: int) -> Rotation:
    """How the blocks of one layer type turn their heads.

    Args:
        known: the configuration over its family's defaults.
        layer_type: "full_attention" or "sliding_attention".
        size: D, size of a head; all of its numbers turn.
        max_context: longest text of the bundle; it chooses LongRoPE's table.

    Raises:
        SourceError: the kind is unknown, lacks an option, or is not constant up to `max_context`.
    """
    options = _options(known, layer_type)
    base = number(options, "rope_theta")
    kind = options["rope_type"]
    plain = plain_frequencies(base, size)
    if options["partial_rotary_factor"] not in (None, 1.0):
        raise SourceError(f"partial_rotary_factor must be 1 in this family, got {options['partial_rotary_factor']}")
    if kind == "default":
        return Rotation(frequencies=plain)
    if kind == "linear":
        return Rotation(frequencies=plain / number(options, "factor"))
    if kind == "llama3":
        return _llama3(plain, options)
    if kind == "yarn":
        return _yarn(base, size, options)
    if kind == "dynamic":
        return _dynamic(plain, known, max_context)
    if kind == "longrope":
        return _longrope(plain, options, max_context)
    raise SourceError(
        f"rope_type must be default, linear, llama3, yarn, dynamic or longrope for an independent check, got {kind!r}"
    )


def _options(known: dict[str, Any], layer_type: str) -> dict[str, Any]:
    """The settings of one layer type in the newer spelling, with what the older one keeps outside of them."""
    older = _stated(known, "rope_scaling", layer_type)
    newer = _stated(known, "rope_parameters", layer_type)
    if any(newer.get(key, value) != value for key, value in older.items()):
        raise SourceError("rope_scaling and rope_parameters of config.json differ; remove one of them")
    options = {**older, **newer}
    options.setdefault("rope_type", "default")
    options.setdefault("rope_theta", known["rope_theta"])
    options.setdefault("partial_rotary_factor", known.get("partial_rotary_factor"))
    limit = number(known, "max_position_embeddings")
    original = number_or(options, "original_max_position_embeddings", limit)
    options["original_max_position_embeddings"] = number_or(known, "original_max_position_embeddings", original)
    if options["rope_type"] in ("yarn", "longrope") and options.get("factor") is None:
        options["factor"] = limit / options["original_max_position_embeddings"]
    return options


def _stated(known: dict[str, Any], name: str, layer_type: str) -> dict[str, Any]:
    """The settings that one of the two keys has for a layer type, with its kind under `rope_type`; none for null."""
    options = dict(known.get(name) or {})
    if any(isinstance(value, dict) for value in options.values()):
        if not isinstance(options.get(layer_type), dict):
            raise SourceError(f"{name} must have settings for {layer_type}, got {', '.join(options)}")
        options = options[layer_type]
    stated = {key: value for key, value in options.items() if value is not None}
    kind = stated.pop("type", None)
    kind = stated.get("rope_type", kind)
    return stated if kind is None else {**stated, "rope_type": _FORMER_NAMES.get(kind, kind)}


def _llama3(plain: Tensor, options: dict[str, Any]) -> Rotation:
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return Rotation(frequencies=llama3_frequencies(plain, *(number(options, name) for name in names)))


def _yarn(base: float, size: int, options: dict[str, Any]) -> Rotation:
    factor = number(options, "factor")
    frequencies = yarn_frequencies(
        base,
        size,
        factor,
        number(options, "original_max_position_embeddings"),
        beta_fast=number_or(options, "beta_fast", 32.0),
        beta_slow=number_or(options, "beta_slow", 1.0),
        truncate=options.get("truncate", True),
    )
    if options.get("attention_factor") is not None:
        attention_factor = number(options, "attention_factor")
    elif options.get("mscale") and options.get("mscale_all_dim"):
        attention_factor = yarn_attention_factor(factor, number(options, "mscale"))
        attention_factor /= yarn_attention_factor(factor, number(options, "mscale_all_dim"))
    else:
        attention_factor = yarn_attention_factor(factor)
    return Rotation(frequencies=frequencies, attention_factor=attention_factor)


def _dynamic(plain: Tensor, known: dict[str, Any], max_context: int) -> Rotation:
    limit = known["max_position_embeddings"]
    if max_context > limit:
        raise SourceError(
            f"max_context must be at most {limit}, where dynamic rotary scaling begins to change, got {max_context}"
        )
    return Rotation(frequencies=plain)


def _longrope(plain: Tensor, options: dict[str, Any], max_context: int) -> Rotation:
    original = number(options, "original_max_position_embeddings")
    name = "long_factor" if max_context > original else "short_factor"
    factors = options.get(name)
    if not isinstance(factors, list) or len(factors) != len(plain):
        raise SourceError(f"{name} of longrope must be a list of {len(plain)} numbers, got {factors!r:.80}")
    if options.get("attention_factor") is not None:
        attention_factor = number(options, "attention_factor")
    else:
        attention_factor = longrope_attention_factor(number(options, "factor"), original)
    return Rotation(frequencies=divided(plain, factors), attention_factor=attention_factor)
