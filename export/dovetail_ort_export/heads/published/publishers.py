"""Who wrote a configuration, and its keys in one flat mapping. It knows no sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dovetail_ort_export.source.diagnosis import architectures
from dovetail_ort_export.source.rules import AnyOf, Rule
from dovetail_ort_runtime.errors import SourceError

SAFEAILAB: Final = "safeailab"
SPECFORGE: Final = "specforge"
ANGELSLIM: Final = "angelslim"
SPECULATORS: Final = "speculators"
MODEL_OPTIMIZER: Final = "model-optimizer"
DEEPSPEC: Final = "deepspec"

_BY_ARCHITECTURE: Final[Mapping[str, str]] = {
    "LlamaForCausalLM": SAFEAILAB,
    "LlamaForCausalLMEagle": SAFEAILAB,
    "EagleLlamaForCausalLM": SAFEAILAB,
    "LlamaForCausalLMEagle3": SPECFORGE,
    "Eagle3LlamaForCausalLM": ANGELSLIM,
    "Eagle3DraftModel": SPECULATORS,
    "Eagle3Speculator": SPECULATORS,
    "Qwen3Eagle3Model": DEEPSPEC,
}
# Of keys that one publisher alone writes, whatever the architecture says.
_BY_KEY: Final[Mapping[str, str]] = {
    "transformer_layer_config": SPECULATORS,
    "target_layer_ids": DEEPSPEC,
    "aux_hidden_states_layer_ids": ANGELSLIM,
    "use_input_layernorm_in_first_layer": MODEL_OPTIMIZER,
}
_NESTED: Final = ("transformer_layer_config", "eagle_config")
# What both levels of a nested configuration may say in their own words.
_OWN_WORDS: Final = frozenset(("architectures", "model_type", "transformers_version", "dtype", "torch_dtype"))

# Keys that only heads of other kinds have, with what such a head is.
_OTHER_KINDS: Final[Mapping[str, str]] = {
    "vision_config": "one for a model that sees",
    "audio_config": "one for a model that hears",
    "block_size": "one that drafts blocks (DFlash or DSpark)",
    "dflash_config": "one that drafts blocks (DFlash or DSpark)",
    "mask_token_id": "one that drafts blocks (DFlash or DSpark)",
    "kv_lora_rank": "one with multi-head latent attention",
    "q_lora_rank": "one with multi-head latent attention",
    "num_experts": "one with experts",
    "num_local_experts": "one with experts",
    "n_routed_experts": "one with experts",
    "num_experts_per_tok": "one with experts",
    "medusa_num_heads": "a Medusa head",
}

# Keys whose other values would make another network.
NEUTRAL: Final[Mapping[str, Rule]] = {
    "use_aux_hidden_state": AnyOf((True,)),
    "use_input_layernorm_in_first_layer": AnyOf((True,)),
    "use_last_layernorm": AnyOf((True,)),
    "use_mtp_layernorm": AnyOf((False,)),
    "next_layer_regular": AnyOf((True,)),
    "parallel_draft_step": AnyOf((0, 1)),
    "eagle_decoder_type": AnyOf(("llama",)),
    "position_embedding_type": AnyOf(("rope",)),
    "is_encoder_decoder": AnyOf((False,)),
    "is_decoder": AnyOf((True, False)),
    "add_cross_attention": AnyOf((False,)),
    "tie_encoder_decoder": AnyOf((False,)),
    "rope_interleaved": AnyOf((False,)),
    "target_model_type": AnyOf(("llama", "qwen2", "qwen3", "mistral")),
    "modal_type": AnyOf(("LLM",)),
}


def publisher_of(config: Mapping[str, Any]) -> str:
    """Who wrote a configuration, as far as its keys tell.

    Args:
        config: flat configuration.

    Raises:
        SourceError: the configuration is of a head of another kind.
    """
    _refuse_other_kinds(config)
    for key, publisher in _BY_KEY.items():
        if config.get(key) is not None:
            return publisher
    names = architectures(config)
    if not names:
        return SAFEAILAB
    if names[0] not in _BY_ARCHITECTURE:
        known = ", ".join(_BY_ARCHITECTURE)
        raise SourceError(f"the architecture of a draft head must be one of {known}, got {names[0]}")
    return _BY_ARCHITECTURE[names[0]]


def flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the keys of its nested parts beside its own.

    The nested part that describes the layers stays as a key, so that its publisher is known by it.

    Raises:
        SourceError: a key has different values in two places, or a part is no object.
    """
    flat: dict[str, Any] = {}
    for part in (config, *(_part(config, name) for name in _NESTED)):
        for key, value in part.items():
            if value is None:
                continue
            if key in flat and key not in _OWN_WORDS and flat[key] != value:
                raise SourceError(
                    f"{key} must be the same wherever config.json states it, got {flat[key]!r:.40} and {value!r:.40}"
                )
            flat.setdefault(key, value)
    return flat


def layer_type(config: Mapping[str, Any]) -> str:
    """`model_type` of the head's layers; `llama` if the configuration names none."""
    return str(_part(config, "transformer_layer_config").get("model_type") or config.get("model_type") or "llama")


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    if part is None:
        return {}
    if not isinstance(part, Mapping):
        raise SourceError(f"{name} must be an object, got {part!r:.60}; is config.json damaged?")
    return part


def _refuse_other_kinds(config: Mapping[str, Any]) -> None:
    for key, kind in _OTHER_KINDS.items():
        if config.get(key):
            raise SourceError(f"a draft head must be EAGLE-1, 2 or 3 with plain layers, got {kind}: it has {key}")
    names = [*architectures(config), str(config.get("target_model_type", "")), str(config.get("modal_type", ""))]
    for name in names:
        if "vl" in name.lower():
            raise SourceError(f"a draft head must be one for text alone, got one for a model that sees: {name}")
        if any(kind in name.lower() for kind in ("dflash", "dspark", "peagle")):
            raise SourceError(f"a draft head must draft one token a step, got one that drafts blocks: {name}")
