"""The metadata of a GGUF file, translated into the keys of a `config.json`. Of tensors it knows only the names.

Every key is translated, known to be harmless, or refused here. A key of unknown meaning keeps its name. The check of
all settings then refuses it, unless the user asks to ignore it by that name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from dovetail_ort_export.source.gguf_rotary import ROTARY_KEYS, Factors, rotary_settings
from dovetail_ort_export.source.gguf_vocabulary import is_vocabulary_key
from dovetail_ort_runtime.checks import must_be_one_of
from dovetail_ort_runtime.errors import SourceError

ARCHITECTURES: Final = ("llama", "qwen2", "qwen3")

# Keys under `ARCHITECTURE.`, and what config.json calls them.
_SIZES: Final = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "context_length": "max_position_embeddings",
}
_EPSILON: Final = "attention.layer_norm_rms_epsilon"
_WINDOW: Final = "attention.sliding_window"
_READ: Final = (
    *_SIZES,
    *ROTARY_KEYS,
    _EPSILON,
    _WINDOW,
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "vocab_size",
)
# Keys that change the model, with the values that change nothing.
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
    "pooling_type": (0,),
    "logit_scale": (1.0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "tensor_data_layout": ("Meta AI original pth",),  # the order of rows that every converter to `llama` writes
}
# Types of the values under keys that hold no number.
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {"rope.scaling.type": (str,)}
# Prefixes of keys that describe the file; no program computes with them.
_DESCRIPTIONS: Final = ("general.", "split.", "quantize.", "imatrix.", "mradermacher.")
_FILE_KINDS: Final = {
    "adapter": "merge the adapter into its base model first",
    "mmproj": "this is the image part of a model; give the file of the language model",
    "vocab": "this file has a vocabulary and no weights",
    "imatrix": "this file has statistics for quantisation and no weights",
}
_QUANTIZATION_VERSION: Final = 2


def check_kind(metadata: Mapping[str, Any]) -> None:
    """Refuse a file that holds no model of a covered architecture.

    Args:
        metadata: metadata of the file by key.

    Raises:
        SourceError: the architecture is another one, or the file holds no model; the message says what it holds.
    """
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise SourceError(f"general.type must be model, got {kind!r}; {_FILE_KINDS.get(kind, 'give a whole model')}")
    architecture = metadata.get("general.architecture")
    advice = "this family is not read from GGUF files"
    must_be_one_of("general.architecture", architecture, ARCHITECTURES, advice=advice, error=SourceError)
    version = metadata.get("general.quantization_version", _QUANTIZATION_VERSION)
    if version != _QUANTIZATION_VERSION:
        raise SourceError(
            f"general.quantization_version must be {_QUANTIZATION_VERSION}, got {version}; quantise the model again"
        )


def model_settings(
    metadata: Mapping[str, Any], tensors: Collection[str], factors: Mapping[str, Factors], rows: int
) -> dict[str, Any]:
    """The configuration of a model.

    Args:
        metadata: metadata by key, of a file that `check_kind` accepts.
        tensors: names of the tensors in the file. They show whether there are biases and a head of its own.
        factors: tensors that divide rotary frequencies, by name.
        rows: number of rows of the embedding.

    Raises:
        SourceError: a key is not covered, or a key that is needed is missing.
    """
    architecture = metadata["general.architecture"]
    own = f"{architecture}."
    settings = {key.removeprefix(own): value for key, value in metadata.items() if key.startswith(own)}
    _check_neutral(settings, architecture)
    _check_types(settings, architecture)
    config: dict[str, Any] = {"model_type": architecture, "hidden_act": "silu"}
    config |= {theirs: _whole(settings, key, architecture) for key, theirs in _SIZES.items()}
    config["rms_norm_eps"] = _needed(settings, _EPSILON, architecture)
    config["vocab_size"] = _vocabulary_size(settings, rows, architecture)
    config["tie_word_embeddings"] = "output.weight" not in tensors
    head_size = _head_size(settings, config, architecture)
    config |= rotary_settings(settings, factors, head_size, config["max_position_embeddings"])
    config |= _family_settings(architecture, settings, config, tensors, head_size)
    return config | _unknown(metadata, own, settings)


def _check_neutral(settings: Mapping[str, Any], architecture: str) -> None:
    """Refuse values that change the model."""
    for key, neutral in _NEUTRAL.items():
        if key in settings and settings[key] not in neutral:
            raise SourceError(
                f"{architecture}.{key} must be {neutral[0]}, got {settings[key]!r:.60}; such models are not covered"
            )


def _check_types(settings: Mapping[str, Any], architecture: str) -> None:
    """Refuse values whose type is not that of their key."""
    for key in _READ:
        if key not in settings:
            continue
        allowed = _TYPES.get(key, (int, float))
        value = settings[key]
        values = value if isinstance(value, list) and key in _SIZES else [value]
        if not all(isinstance(entry, allowed) for entry in values):
            kind = "text" if str in allowed else "a number"
            raise SourceError(f"{architecture}.{key} must be {kind}, got {value!r:.60}; convert the model again")


def _needed(settings: Mapping[str, Any], key: str, architecture: str) -> Any:
    """The value of a key that every file must have."""
    if key not in settings:
        raise SourceError(f"a GGUF file must have the key {architecture}.{key}, got none; convert the model again")
    return settings[key]


def _whole(settings: Mapping[str, Any], key: str, architecture: str) -> int:
    """A size, which some converters write once for each block."""
    if key == "attention.head_count_kv" and key not in settings:
        key = "attention.head_count"
    value = _needed(settings, key, architecture)
    values = set(value) if isinstance(value, list) else {value}
    if len(values) != 1:
        raise SourceError(
            f"{architecture}.{key} must be the same for all blocks, got {value!s:.60}; such models are not covered"
        )
    size = values.pop()
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SourceError(f"{architecture}.{key} must be a whole number of 1 or more, got {size!r:.60}")
    return size


def _vocabulary_size(settings: Mapping[str, Any], rows: int, architecture: str) -> int:
    """V, the number of rows of the embedding."""
    stated = settings.get("vocab_size", rows)
    if stated != rows:
        raise SourceError(
            f"token_embd.weight must have {stated} rows, as {architecture}.vocab_size says, got {rows}; "
            "convert the model again"
        )
    return rows


def _head_size(settings: Mapping[str, Any], config: Mapping[str, Any], architecture: str) -> int:
    """D. Keys and values must have the same size, and all of a head must be rotated."""
    width = config["hidden_size"]
    heads = config["num_attention_heads"]
    if "attention.key_length" not in settings and width % heads:
        raise SourceError(
            f"{architecture}.embedding_length must be a multiple of the head count where there is no "
            f"attention.key_length, got {width} and {heads}; convert the model again"
        )
    size = int(settings.get("attention.key_length", width // heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if settings.get(key, size) != size:
            raise SourceError(
                f"{architecture}.{key} must be the size of a key, {size}, got {settings[key]}; "
                "such models are not covered"
            )
    return size


def _family_settings(
    architecture: str, settings: Mapping[str, Any], config: Mapping[str, Any], tensors: Collection[str], head_size: int
) -> dict[str, Any]:
    """The settings that only some families have: the head size, biases, a sliding window."""
    window = settings.get(_WINDOW)
    slides = bool(window) and window < config["max_position_embeddings"]
    attention_bias = any(name.endswith(".attn_q.bias") for name in tensors)
    if architecture == "qwen2":
        _check_even_heads(config, head_size)
        return _qwen_window(window) if slides else {}
    if architecture == "qwen3":
        found = {"head_dim": head_size, "attention_bias": attention_bias}
        return found | (_qwen_window(window) if slides else {})
    if slides:  # the first releases of Mistral, which have this architecture, too
        return {"model_type": "mistral", "head_dim": head_size, "sliding_window": window}
    return {
        "head_dim": head_size,
        "attention_bias": attention_bias,
        "mlp_bias": any(name.endswith(".ffn_down.bias") for name in tensors),
    }


def _check_even_heads(config: Mapping[str, Any], head_size: int) -> None:
    """Refuse heads that are not together as wide as the hidden state."""
    width = config["hidden_size"]
    heads = config["num_attention_heads"]
    if width != heads * head_size:
        raise SourceError(
            f"qwen2.embedding_length must be head count times key length, got {width} and {heads} times {head_size}; "
            "such models are not covered"
        )


def _qwen_window(window: Any) -> dict[str, Any]:
    # The file does not say which blocks have the window. The context never exceeds it, so all of them may have it.
    return {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 0}


def _unknown(metadata: Mapping[str, Any], own: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of unknown meaning, by their full names."""
    known = {f"{own}{key}" for key in settings if key in _READ or key in _NEUTRAL}
    return {
        key: value
        for key, value in metadata.items()
        if key not in known and not key.startswith(_DESCRIPTIONS) and not is_vocabulary_key(key)
    }
