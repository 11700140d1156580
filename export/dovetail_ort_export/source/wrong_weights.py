"""Why a checkpoint's weights are not those that its model needs: the likeliest cause, and what to do about it.

It reads no files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dovetail_ort_export.source.diagnosis import architectures
from dovetail_ort_runtime.arrays import Shape

_BLOCK: Final = re.compile(r"\.layers\.(\d+)\.")
_HEAD: Final = "lm_head.weight"
_MODEL: Final = "model."
_BIAS: Final = ".bias"
# What a checkpoint is, by a part of the names of its tensors.
MARKS: Final[Mapping[str, str]] = {
    "lora_": "an adapter's weights are among them; merge it first (merge_and_unload) and save the model",
    ".base_layer.": "an adapter's weights are among them; merge it first (merge_and_unload) and save the model",
    "score.weight": "this is a classifier; give the language model that it was made from",
    "classifier.": "this is a classifier; give the language model that it was made from",
    "v_head.": "this has the value head of a training with rewards; save the language model alone",
    ".experts.": "this is a mixture of experts, which export does not read",
    "vision_": "this is a multimodal model; give a checkpoint of the language model alone",
    "language_model.": "this is a multimodal model; give a checkpoint of the language model alone",
    "qkv_proj": "query, key and value are one matrix, as in another family; model_type in config.json must be its own",
    "gate_up_proj": "gate and up are one matrix, as in another family; model_type in config.json must be its own",
}
# What wraps a model, by the prefix that it adds to names.
WRAPPERS: Final[Mapping[str, str]] = {
    "base_model.model.": "an adapter's wrapper; merge it (merge_and_unload) and save the model that this returns",
    "module.": "a wrapper of parallel training; save the module inside it",
    "_orig_mod.": "torch.compile's wrapper; save the module inside it",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WrongWeights:
    """How stored weights differ from those that a model needs.

    Attributes:
        missing: names that the model needs and no file has.
        unexpected: names that the model has no use for.
        misshaped: name, shape that the model needs and shape in the file, of each weight whose shapes differ.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[tuple[str, Shape, Shape], ...]


def cause_of_wrong_weights(config: Mapping[str, Any], wrong: WrongWeights) -> str:
    """The likeliest cause, with the next action, in one line.

    Args:
        config: content of the checkpoint's `config.json`.
        wrong: how the weights differ; at least one is missing, unexpected or misshaped.
    """
    return (
        _marked(wrong.unexpected)
        or _other_prefix(wrong)
        or _no_head(config, wrong)
        or _other_biases(wrong)
        or _other_blocks(config, wrong)
        or _other_vocabulary(wrong)
        or "configuration and weights are of different models, or parts are missing; download the model again"
    )


def _marked(unexpected: Sequence[str]) -> str | None:
    """The cause that a part of an unexpected name points to, or None."""
    for mark, cause in MARKS.items():
        if any(mark in name for name in unexpected):
            return cause
    return None


def _other_prefix(wrong: WrongWeights) -> str | None:
    """The cause if all names have one prefix too many or one too few, or None."""
    missing = set(wrong.missing)
    shortened = {name.removeprefix(_MODEL) for name in missing if name.startswith(_MODEL)}
    if shortened and len(shortened.intersection(wrong.unexpected)) > len(missing) // 2:
        return (
            f"the names lack the prefix {_MODEL}, as in a base model without its head; "
            "save it as AutoModelForCausalLM, or give the checkpoint that has the head"
        )
    prefixes: Counter[str] = Counter()
    for name in wrong.unexpected:
        prefixes.update(name[:start] for start in _starts(name) if name[start:] in missing)
    if not prefixes:
        return None
    prefix, times = prefixes.most_common(1)[0]
    if times <= len(missing) // 2:
        return None
    wrapper = next((cause for mark, cause in WRAPPERS.items() if prefix.startswith(mark)), None)
    return f"all names have the prefix {prefix}, of {wrapper or 'another model around it; save the inner model alone'}"


def _starts(name: str) -> list[int]:
    """Where the parts of a name between dots begin, without the first part."""
    return [index + 1 for index, character in enumerate(name) if character == "."]


def _no_head(config: Mapping[str, Any], wrong: WrongWeights) -> str | None:
    """The cause if only the head is missing, or None."""
    if wrong.missing != (_HEAD,):
        return None
    if any(name.endswith("Model") for name in architectures(config)):
        return "this is a base model without its head; give the checkpoint of the causal language model"
    return (
        "the head is missing; give a checkpoint that has it, or set tie_word_embeddings to true in config.json if the "
        "head is the embedding"
    )


def _other_biases(wrong: WrongWeights) -> str | None:
    """The cause if only biases are missing or unexpected, or None."""
    if wrong.misshaped or not all(name.endswith(_BIAS) for name in (*wrong.missing, *wrong.unexpected)):
        return None
    return (
        "these are biases alone: correct model_type, or attention_bias and mlp_bias, in config.json, or download the "
        "model again"
    )


def _other_blocks(config: Mapping[str, Any], wrong: WrongWeights) -> str | None:
    """The cause if whole blocks are missing, or there are more of them than the configuration says, or None."""
    missing = _blocks(wrong.missing)
    if missing and len(wrong.missing) >= 3 * len(missing) and not wrong.unexpected:
        return f"{_counted(missing)} missing; download the missing parts, or correct num_hidden_layers in config.json"
    further = _blocks(wrong.unexpected)
    if further and not wrong.missing and further[0] >= config.get("num_hidden_layers", 0):
        return f"{_counted(further)} not in config.json; correct its num_hidden_layers, or take the model's own file"
    return None


def _blocks(names: Iterable[str]) -> list[int]:
    found = (_BLOCK.search(name) for name in names)
    return sorted({int(match[1]) for match in found if match is not None})


def _counted(blocks: list[int]) -> str:
    if len(blocks) == 1:
        return f"block {blocks[0]} is"
    return f"{len(blocks)} blocks ({blocks[0]} to {blocks[-1]}) are"


def _other_vocabulary(wrong: WrongWeights) -> str | None:
    """The cause if the embedding or the head has another number of rows, or None."""
    if wrong.missing or wrong.unexpected:
        return None
    rows = {(needed[0], found[0]) for name, needed, found in wrong.misshaped if needed and found and _is_end(name)}
    if not rows:
        return None
    needed, found = min(rows)
    return (
        f"config.json has a vocabulary of {needed} and the weights one of {found}; "
        "take config.json and weights of one revision"
    )


def _is_end(name: str) -> bool:
    """Whether a weight is the embedding or the head."""
    return name.endswith(("embed_tokens.weight", _HEAD))
