"""What export reads and what it refuses, from the family files, and the published configurations that were tried."""

from __future__ import annotations

import json
from typing import Any, Final

from benchmarks.markdown import blocks, paragraph, table
from benchmarks.result_files import XEON_AMX, read_json
from dovetail_ort_export.source.diagnosis import OTHER_KINDS
from dovetail_ort_export.source.families import FAMILIES
from dovetail_ort_export.source.families.family import COMMON_SETTINGS, UNNEEDED
from dovetail_ort_export.source.gguf_splitting import RULES
from dovetail_ort_export.source.harmless_settings import HARMLESS
from dovetail_ort_export.source.quantised import METHODS
from dovetail_ort_export.source.rotary import KINDS
from dovetail_ort_export.source.settings import NEUTRAL
from dovetail_ort_export.source.wrong_weights import MARKS, WRAPPERS

_ROTARY_REMARKS: Final = {
    "dynamic": "only with `--max-context` at most the model's own maximum, up to where it changes nothing",
    "longrope": "one table a bundle, the one that `--max-context` asks for, named in the manifest",
    "yarn": "`--max-context` may reach factor x original context",
}


def families() -> str:
    """The families and what distinguishes them."""
    rows = [
        [f"`{name}`", family.models, ", ".join(f"`{key}`" for key in family.settings) or "none"]
        for name, family in FAMILIES.items()
    ]
    return table(["`model_type`", "models", "own settings"], rows, numbers=False)


def settings() -> str:
    """Every key of a configuration that is read, by what it may be."""
    common = [[f"`{key}`", "all", rule.words] for key, rule in COMMON_SETTINGS.items()]
    own: dict[tuple[str, str], list[str]] = {}
    for name, family in FAMILIES.items():
        for key, rule in family.settings.items():
            own.setdefault((key, rule.words), []).append(name)
        for key, values in family.neutral.items():
            own.setdefault((key, _only(values)), []).append(name)
    rows = common + [[f"`{key}`", ", ".join(names), words] for (key, words), names in sorted(own.items())]
    rows += [[f"`{key}`", "all", _only(values)] for key, values in NEUTRAL.items()]
    return table(["key", "families", "must be"], rows, numbers=False)


def _only(values: tuple[Any, ...]) -> str:
    """What a key may be whose other values would make another model."""
    return "only " + " or ".join(json.dumps(value) for value in values)


def rotations() -> str:
    """The rotary kinds and their options."""
    rows = [
        [f"`{kind}`", ", ".join(f"`{option}`" for option in options) or "none", _ROTARY_REMARKS.get(kind, "")]
        for kind, options in KINDS.items()
    ]
    return table(["`rope_type`", "options", ""], rows, numbers=False)


def harmless_settings() -> str:
    """Keys that change no logits, by the reason."""
    rows = [[reason, ", ".join(f"`{key}`" for key in keys)] for reason, keys in HARMLESS.items()]
    return table(["because they are of", "keys"], rows, numbers=False)


def unneeded_weights() -> str:
    """Tensors that a file may hold and no model needs."""
    rows = [[f"`{pattern}`", reason] for pattern, reason in UNNEEDED.items()]
    rows.append(["`lm_head.weight`", "the embedding, which is the head; refused where it differs from it"])
    return table(["tensor", "why it is not needed"], rows, numbers=False)


def published() -> str:
    """The published configurations that were tried."""
    measured = read_json(XEON_AMX / "published.json")
    rows = [
        [
            name,
            found["family"],
            f"{found['rotation']}, {found['theta']:,.0f}",
            f"{found['head_size']}",
            "yes" if found["tied"] else "no",
            f"{found['max_context']:,}",
            f"{found['model_difference']:.1e}",
            f"{found['graph_difference']:.1e}",
        ]
        for name, found in measured["models"].items()
    ]
    header = ["configuration", "family", "rotation, theta", "head size", "tied", "context", "model", "graph"]
    words = (
        f"Exported in fp32 with {measured['layers']} blocks, {measured['vocabulary']:,} tokens and random weights; all "
        "other settings are as published. The last columns are the largest differences of the model in transformers "
        "and of the exported graph from the witness, as a share of the logits' spread. "
        f"Measured on {measured['machine']}, with transformers {measured['transformers']} and onnxruntime "
        f"{measured['onnxruntime']}."
    )
    return blocks(table(header, rows, numbers=False), paragraph(words))


def refused_directories() -> str:
    """What a directory may be that export does not read, by a file in it."""
    quantised = f"`quantization_config` or tensors of a quantiser: {', '.join(METHODS.values())}, MLX"
    rows = [
        ["`adapter_config.json`", "this is an adapter, not a model; merge it first (the line has the call)"],
        ["a pointer of Git LFS", "got a Git LFS pointer; run git lfs pull"],
        ["`auto_map` in `config.json`", "code of a repository is never run; the line names the built-in family"],
        ["a class `...ForSequenceClassification` and the like", "the model must write text, got a classifier"],
        ["`vision_config`, `audio_config`, `text_config`", "the model must take text alone"],
        [quantised, "the weights must be floating-point numbers, got a quantised checkpoint (its kind)"],
        *[[f"`{pattern}`", action] for pattern, action in OTHER_KINDS.items()],
    ]
    return table(["found", "the line says"], rows, numbers=False)


def refused_weights() -> str:
    """Likely causes of tensors that are missing, unexpected or of another shape."""
    prefixes = [
        [f"prefix `{prefix}`", f"all names have the prefix, of {wrapper}"] for prefix, wrapper in WRAPPERS.items()
    ]
    rows = [
        *[[f"`{mark}` in a name", cause] for mark, cause in MARKS.items()],
        *prefixes,
        ["all names lack `model.`", "a base model without its head; give the checkpoint that has the head"],
        ["whole blocks are missing", "download the missing parts, or correct num_hidden_layers"],
        ["a value that is not finite", "the weight is named; download it again, or take another checkpoint"],
    ]
    return table(["found", "the line says"], rows, numbers=False)


def gguf_splitting() -> str:
    """The splitting rules of GGUF vocabularies."""
    rows = [[", ".join(f"`{name}`" for name in rule.names)] for rule in RULES]
    return table(["values of `tokenizer.ggml.pre`, a rule a line"], rows, numbers=False)
