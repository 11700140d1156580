"""Every setting of a configuration: understood, known to be harmless, or refused.

Only what is understood reaches transformers. A key that nobody here knows may change the mathematics, so it is an
error unless the user names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from dovetail_ort_export.source.families import FAMILIES, Family
from dovetail_ort_export.source.families.family import DIMENSIONS
from dovetail_ort_export.source.rotary import ROTARY_KEYS, Rotary, read_rotary
from dovetail_ort_export.source.rules import Number
from dovetail_ort_runtime.errors import InputError, SourceError

# Keys that change no logits of a loaded model, by why that is so.
HARMLESS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "names and versions": (
            *("architectures", "model_type", "_name_or_path", "name_or_path", "transformers_version", "license"),
            *("unsloth_version", "unsloth_fixed", "model_name", "_commit_hash", "mergekit_version"),
        ),
        "number type of the files, which tell it themselves": ("torch_dtype", "dtype"),
        "training": (
            *("initializer_range", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "dropout"),
            *("attn_pdrop", "gradient_checkpointing", "router_aux_loss_coef", "neftune_noise_alpha"),
        ),
        "ends and begins of a text, which the generation settings and the tokenizer tell": (
            *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id"),
            *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"),
        ),
        "how a program runs the model": (
            *("use_cache", "output_attentions", "output_hidden_states", "output_scores", "return_dict"),
            *("return_dict_in_generate", "torchscript", "use_bfloat16", "tf_legacy_loss", "pretraining_tp"),
            *("chunk_size_feed_forward", "_attn_implementation", "attn_implementation", "_attn_implementation_autoset"),
            *("_flash_attn_2_enabled", "use_flash_attn", "use_flash_attention", "transformers.js_config"),
            *("_experts_implementation", "experts_implementation", "_output_attentions", "output_past"),
            "trust_remote_code",
        ),
        "labels of classifiers": ("id2label", "label2id", "problem_type", "num_labels", "finetuning_task"),
        "task settings": ("task_specific_params", "prefix", "tokenizer_class", "remove_invalid_values"),
        "lengths of texts in training, beside max_position_embeddings": (
            *("max_sequence_length", "model_max_length", "seq_length", "tokenizer_model_max_length"),
            "tokenizer_padding_side",
        ),
        "generation settings of older files": (
            *("do_sample", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"),
            *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_beams", "num_beam_groups", "max_length"),
            *("min_length", "diversity_penalty", "early_stopping", "bad_words_ids", "num_return_sequences"),
            *("suppress_tokens", "begin_suppress_tokens", "exponential_decay_length_penalty", "max_new_tokens"),
        ),
    }
)
_HARMLESS_KEYS: Final = frozenset(key for keys in HARMLESS.values() for key in keys)

# Keys that would make another model of it, and the values that do not.
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

_HEAD_SIZE_STEP: Final = 16  # GroupQueryAttention's, where it rotates


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A configuration that is understood.

    Attributes:
        family: of the model.
        values: keys and values for transformers' configuration of the family, in the older spelling.
        rotary: how positions turn queries and keys.
        max_context: largest number of tokens of prompt and answer.
        ignored: keys that the user said to ignore, as far as the configuration has them.
    """

    family: Family
    values: Mapping[str, Any]
    rotary: Rotary
    max_context: int
    ignored: tuple[str, ...]


def read_settings(config: Mapping[str, Any], max_context: int | None = None, ignore: Sequence[str] = ()) -> Settings:
    """Understand a configuration.

    Args:
        config: as `config.json` has it.
        max_context: largest number of tokens that is asked for; the model's own maximum if None.
        ignore: keys that are passed over although nothing is known of them.

    Raises:
        SourceError: the family or a setting is not covered; the message names it and what is.
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
    if name not in FAMILIES:
        raise SourceError(f"the model family must be one of {', '.join(FAMILIES)}, got {name!r}")
    return FAMILIES[name]


def _is_understood(key: str, family: Family) -> bool:
    known = family.rule(key) is not None or key in family.neutral or key in NEUTRAL
    return known or key in ROTARY_KEYS


def _ignored(config: Mapping[str, Any], family: Family, ignore: Sequence[str]) -> tuple[str, ...]:
    for key in ignore:
        if _is_understood(key, family):
            raise InputError(
                f"ignore_settings must name keys that export does not know, got {key!r}, which changes what "
                f"{family.model_type} computes"
            )
    return tuple(key for key in config if key in ignore)


def _check_keys(config: Mapping[str, Any], family: Family) -> None:
    """Refuse keys that nobody knows, and values that make another model."""
    unknown = []
    for key, value in config.items():
        neutral = family.neutral.get(key, NEUTRAL.get(key))
        if value is None or value in ({}, []) or key in _HARMLESS_KEYS:  # empty ones say nothing
            continue
        if neutral is not None:
            if value not in neutral:
                shown = " or ".join(map(str, neutral))
                raise SourceError(f"{key} of {family.model_type} must be {shown}, got {value!r:.60}; it is not built")
        elif not _is_understood(key, family):
            unknown.append(key)
    if unknown:
        first = ", ".join(f"{key} = {config[key]!r:.40}" for key in unknown[:3])
        flags = " ".join(f"--ignore-setting {key}" for key in unknown[:3])
        raise SourceError(
            f"every setting must be one that export knows, got {first}{' and others' if len(unknown) > 3 else ''} in "
            f"the configuration of {family.model_type}; if none of them changes what the model computes: {flags}"
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
    """D, and the checks of what it is made from."""
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
    own = values.get("max_position_embeddings")
    if own is None:
        raise SourceError(
            "config.json must have the key 'max_position_embeddings', which is missing; add it with the longest text, "
            "in tokens, that the model was trained for"
        )
    longest = rotary.longest_context(own)
    if rotary.kind == "dynamic" and (asked is None or asked > own):
        # A text that grows beyond it would change what its first tokens were computed with.
        raise SourceError(
            f"max_context must be at most {own} where rope_type is dynamic, whose angles change with the length of a "
            f"longer text, got {asked or 'none'}; export with --max-context {own}"
        )
    if asked is not None and asked > longest:
        raise InputError(f"max_context must be at most the model's {longest}, got {asked}")
    context = own if asked is None else asked
    window = _window(values)
    # GroupQueryAttention's local window counts slots of the cache: right for chains, wrong for trees, where siblings
    # take slots between a draft token and its ancestors.
    if window is not None and window < context:
        raise SourceError(
            f"max_context must be at most the sliding window of {window} tokens, got {context}; "
            f"export with --max-context {window}"
        )
    return int(context)


def _window(values: Mapping[str, Any]) -> int | None:
    """The window of the blocks that have one, or None if all of them see everything."""
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
