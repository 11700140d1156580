"""What export reads and what it refuses, from the family files, and the published configurations that were tried."""

from __future__ import annotations

from typing import Final

from benchmarks.markdown import table
from benchmarks.published import LAYERS, VOCABULARY
from benchmarks.result_files import XEON_AMX, read_json
from dovetail_ort_export.source.families import FAMILIES
from dovetail_ort_export.source.families.family import COMMON_SETTINGS, UNNEEDED
from dovetail_ort_export.source.rotary import KINDS
from dovetail_ort_export.source.settings import HARMLESS, NEUTRAL

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
    rows = common + [[f"`{key}`", ", ".join(names), words] for (key, words), names in own.items()]
    neutral = {**NEUTRAL, **{key: values for family in FAMILIES.values() for key, values in family.neutral.items()}}
    for key, values in neutral.items():
        rows.append([f"`{key}`", "all", "only " + " or ".join(str(value).lower() for value in values)])
    return table(["key", "families", "must be"], rows, numbers=False)


def rotations() -> str:
    """The rotary kinds and their options."""
    rows = [
        [f"`{kind}`", ", ".join(f"`{option}`" for option in options) or "none", _ROTARY_REMARKS.get(kind, "")]
        for kind, options in KINDS.items()
    ]
    return table(["`rope_type`", "options", ""], rows, numbers=False)


def harmless_settings() -> str:
    """Keys that change no logits, by why that is so."""
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
        f"Measured on {measured['machine']}, with transformers {measured['transformers']} and onnxruntime "
        f"{measured['onnxruntime']}: {LAYERS} blocks, {VOCABULARY:,} tokens, random weights, fp32. The last columns are "
        "the largest differences from the witness, as a share of the logits' standard deviation."
    )
    return f"{table(header, rows)}\n\n{words}"
