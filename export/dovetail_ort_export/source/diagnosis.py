"""Find out why export cannot read a path as a model, in one line with the next action. It reads no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from dovetail_ort_export.source.families import FAMILIES
from dovetail_ort_export.source.json_file import read_json
from dovetail_ort_runtime.bundle.manifest import MANIFEST_NAME
from dovetail_ort_runtime.errors import SourceError

_POINTER: Final = b"version https://git-lfs.github.com/spec"
_LARGEST_POINTER: Final = 1024  # bytes, by the specification of Git LFS
_HEADS: Final = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "RewardModel")
_PARTS_OF_MULTIMODAL: Final = ("vision_config", "audio_config", "text_config")

_OF_TRAINING: Final = ("training_args.bin", "optimizer.bin", "scheduler.bin")

# What a directory without config.json or weights may be, and what to do next, by the name of a file in it.
OTHER_KINDS: Final = {
    "model_index.json": "this is an image model in parts (model_index.json), give a causal language model",
    "consolidated*": "the weights are in the publisher's own format (consolidated), take its Hugging Face files",
    "tf_model*.h5": "the weights are TensorFlow's, save them with transformers 4 and from_tf=True first",
    "flax_model*.msgpack": "the weights are Flax's, save them with transformers 4 and from_flax=True first",
    "onnx": "there is an ONNX graph only, give the model that it was made from",
    "*.onnx": "there is an ONNX graph only, give the model that it was made from",
    "*.npz": "the weights are MLX's (.npz), give the model that they were made from",
    "adapter_model*": "this is an adapter without its settings, merge it into its model first",
    "pytorch_model_fsdp*": "this is an FSDP checkpoint, make weights of it first: accelerate merge-weights",
    "optimizer.pt": "this is the state of a training, save the model itself with save_pretrained first",
}


def refuse_files(path: Path) -> None:
    """Refuse a path that is no directory of a model, by the names of its files.

    Raises:
        SourceError: the path is a file, or a directory without `config.json`; it holds an adapter; or its settings are
            only Git LFS pointers.
    """
    if not path.is_dir():
        raise SourceError(_no_directory(path))
    if not any(path.iterdir()):
        raise SourceError(f"a source directory must hold a model, got {str(path)!r}, which is empty")
    if (path / "adapter_config.json").is_file():
        raise SourceError(_adapter(path))
    if not (path / "config.json").is_file():
        raise SourceError(
            f"a source directory must have a config.json, got none in {str(path)!r}; "
            f"{_other_kind(path) or 'give a directory of the Hugging Face format, or a .gguf file'}"
        )
    refuse_pointers(sorted((*path.glob("*.json"), *path.rglob("*.jinja"))))


def refuse_pointers(files: Iterable[Path]) -> None:
    """Refuse files that are only Git LFS pointers.

    Raises:
        SourceError: a file is a pointer; the message names it.
    """
    for file in files:
        if is_pointer(file):
            raise SourceError(
                f"{file.name} must be the file itself, got a Git LFS pointer to it; "
                f"run git lfs pull in {str(file.parent)!r}"
            )


def refuse_configuration(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that is not for a decoder-only language model, or that needs code from its repository.

    Raises:
        SourceError: the configuration needs code, or is of a classifier, of an encoder, or of a model that takes more
            than text.
    """
    if config.get("auto_map"):
        raise SourceError(_own_code(config))
    names = architectures(config)
    for name in names:
        if name.endswith(_HEADS):
            raise SourceError(
                f"the model must write text, got a classifier ({name}); give the language model that it was made from"
            )
    for part in _PARTS_OF_MULTIMODAL:
        if part in config:
            raise SourceError(
                f"the model must take text alone, got a multimodal one (config.json has {part}); "
                "give a checkpoint that holds the language model alone"
            )
    signs = [name for name in names if name.endswith(("ForMaskedLM", "ForConditionalGeneration"))]
    if config.get("is_encoder_decoder") is True:
        signs.append("is_encoder_decoder")
    if signs:
        raise SourceError(
            f"the model must be a decoder alone, got an encoder ({signs[0]}); give a causal language model"
        )


def without_weights(path: Path) -> SourceError:
    """The error for a directory without weights that export reads; it names the likeliest cause."""
    action = _other_kind(path) or _action_for_other_weights(path)
    return SourceError(f"{str(path)!r} must have its weights in model.safetensors or pytorch_model.bin; {action}")


def _action_for_other_weights(path: Path) -> str:
    """What to do about weights under names that export does not read."""
    files = [*path.glob("*.safetensors"), *path.glob("*.bin")]
    names = sorted(file.name for file in files if file.name not in _OF_TRAINING)
    if names:
        return f"rename {names[0]} if it holds the whole model"
    return "download the model's other files"


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of transformers' classes that a configuration is for."""
    names = config.get("architectures")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _no_directory(path: Path) -> str:
    if not path.exists():
        return f"a source must be a directory, a .gguf file or a hub name, got {str(path)!r}, which is not there"
    if path.suffix == ".onnx":
        return f"a source must be the model before its export, got the ONNX graph {str(path)!r}; give its directory"
    return f"a source must be a directory or a .gguf file, got {str(path)!r}; give its directory {str(path.parent)!r}"


def is_pointer(path: Path) -> bool:
    """Whether a file is only a pointer of Git LFS to the file that is meant."""
    if not path.is_file() or path.stat().st_size > _LARGEST_POINTER:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _adapter(path: Path) -> str:
    base = read_json(path / "adapter_config.json").get("base_model_name_or_path") or "BASE"
    if (path / "config.json").is_file() and any(path.glob("model*.safetensors")):
        return (
            f"{str(path)!r} must be either a model or an adapter, got both; delete adapter_config.json and the adapter "
            "if it is merged into the weights, and merge it first otherwise"
        )
    return (
        f"{str(path)!r} is an adapter (adapter_config.json), not a model; merge it first: "
        f"PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), {str(path)!r})"
        ".merge_and_unload().save_pretrained('MERGED'), then save the tokenizer there and export MERGED"
    )


def _other_kind(path: Path) -> str | None:
    """What a directory without config.json or weights is, and what to do about it; None if that is not known."""
    names = sorted(file.name for file in path.iterdir())
    if MANIFEST_NAME in names:
        return f"this is a bundle already, use it with: dovetail-ort generate {path} PROMPT"
    gguf = [name for name in names if name.lower().endswith(".gguf")]
    if gguf:
        return f"give the .gguf file: {path / gguf[0]}"
    checkpoints = [name for name in names if name.startswith("checkpoint-") and (path / name).is_dir()]
    if checkpoints:
        newest = max(checkpoints, key=lambda name: (len(name), name))
        return f"this is a training run's folder, give one of its checkpoints: {path / newest}"
    if "zero_to_fp32.py" in names or any(name.startswith("global_step") for name in names):
        return (
            "this is a DeepSpeed checkpoint, make weights of it first: python zero_to_fp32.py . . --safe_serialization"
        )
    snapshots = sorted(path.glob("snapshots/*"))
    if snapshots:
        return f"this is a repository in the hub's cache, give its snapshot: {snapshots[0]}"
    for pattern, action in OTHER_KINDS.items():
        if any(fnmatchcase(name, pattern) for name in names):
            return action
    inside = [name for name in names if (path / name / "config.json").is_file()]
    return f"there is one in {path / inside[0]}, give that" if inside else None


def _own_code(config: Mapping[str, Any]) -> str:
    names = {str(config.get("model_type"))}
    names |= {name.removesuffix("ForCausalLM").lower() for name in architectures(config)}
    builtin = sorted(names & FAMILIES.keys())
    if builtin:
        return (
            "code of a repository is never run, and config.json names some (auto_map); the family "
            f"{builtin[0]} is built in: remove auto_map from config.json if the model is a plain {builtin[0]}"
        )
    return (
        "code of a repository is never run, and config.json needs some (auto_map); "
        f"give a model of the families that are built in: {', '.join(FAMILIES)}"
    )
