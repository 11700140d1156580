"""Why a path is no model that export reads: each kind has its own line, with the next action in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dovetail_ort_export.source.directory import read_directory
from dovetail_ort_export.source.weight_check import check_weights
from dovetail_ort_runtime.errors import SourceError

Weights = dict[str, torch.Tensor]
LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 269060552\n"


@pytest.fixture
def source(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of a tiny Llama's directory, to be changed."""
    return shutil.copytree(tiny_llama, tmp_path / "tiny")


def refusal(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        read_directory(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def configure(path: Path, **settings: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | settings))


# Files, directories with a slash at the end, and what the line must hold.
FOLDERS = {
    "empty": ((), "is empty"),
    "a bundle": (("manifest.json", "target/model.onnx"), "bundle already"),
    "GGUF": (("tiny-Q4_0.gguf", "README.md"), "tiny-Q4_0.gguf"),
    "GGUF in capitals": (("TINY.GGUF",), "TINY.GGUF"),
    "ONNX": (("model.onnx", "tokenizer.json"), "ONNX"),
    "ONNX in a folder": (("onnx/model.onnx", "config.json"), "ONNX"),
    "TensorFlow": (("config.json", "tf_model.h5"), "TensorFlow"),
    "Flax": (("config.json", "flax_model.msgpack"), "Flax"),
    "MLX arrays": (("config.json", "weights.npz"), "MLX"),
    "the publisher's own format": (("consolidated.00.pth", "params.json"), "consolidated"),
    "its safetensors": (("consolidated.safetensors", "params.json", "config.json"), "consolidated"),
    "an image model": (("model_index.json", "unet/config.json"), "image model"),
    "a training run": (("checkpoint-500/config.json", "checkpoint-1000/config.json"), "checkpoint-1000"),
    "DeepSpeed": (("config.json", "global_step500/mp_rank_00_model_states.pt", "latest"), "zero_to_fp32"),
    "FSDP": (("config.json", "pytorch_model_fsdp_0/__0_0.distcp"), "merge-weights"),
    "state of a training": (("config.json", "optimizer.pt", "scheduler.pt"), "save_pretrained"),
    "a repository of the cache": (("refs/main", "snapshots/abc/config.json"), "snapshots/abc"),
    "a model one folder deeper": (("tiny/config.json",), "tiny"),
    "weights under another name": (("config.json", "tiny.fp16.safetensors"), "rename tiny.fp16.safetensors"),
    "settings alone": (("config.json", "tokenizer.json", "training_args.bin"), "download"),
    "something else": (("notes.txt",), "config.json"),
}


@pytest.mark.parametrize(("files", "told"), FOLDERS.values(), ids=FOLDERS)
def test_a_directory_without_a_model_is_recognised_by_what_is_in_it(files: tuple[str, ...], told: str, tmp_path: Path):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")

    assert told in refusal(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_in_place_of_its_directory_is_refused_with_the_directory(file: str, source: Path):
    assert f"give its directory {str(source)!r}" in refusal(source / file)


def test_a_path_to_nothing_is_refused(tmp_path: Path):
    assert "which is not there" in refusal(tmp_path / "nothing")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_pointer_of_git_lfs_is_distinguished_from_a_damaged_file(file: str, source: Path):
    (source / file).write_text(LFS)

    assert "git lfs pull" in refusal(source)
    assert file in refusal(source)


def test_a_pointer_that_nothing_reads_does_no_harm(source: Path):
    (source / "pytorch_model.bin").write_text(LFS)

    assert read_directory(source).tensors


def test_an_adapter_is_refused_with_the_call_that_merges_it(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    (tmp_path / "adapter_model.safetensors").touch()
    message = refusal(tmp_path)

    assert "from_pretrained('owner/base')" in message
    assert "merge_and_unload().save_pretrained(" in message


def test_an_adapter_beside_a_model_is_refused_as_nobody_knows_whether_it_is_merged(source: Path):
    (source / "adapter_config.json").write_text("{}")

    assert "both" in refusal(source)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Own"}}, "remove auto_map"),
        ({"auto_map": {"AutoConfig": "c.Own"}, "model_type": "own", "architectures": ["Qwen2ForCausalLM"]}, "qwen2"),
        ({"auto_map": {"AutoConfig": "c.Own"}, "model_type": "own"}, "llama, mistral, qwen2, qwen3"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "classifier"),
        ({"architectures": ["Qwen2ForRewardModel"]}, "classifier"),
        ({"architectures": ["LlavaForConditionalGeneration"], "text_config": {}}, "multimodal"),
        ({"vision_config": {}}, "multimodal"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "encoder"),
        ({"architectures": ["BertForMaskedLM"]}, "encoder"),
        ({"is_encoder_decoder": True}, "encoder"),
    ],
)
def test_a_configuration_of_another_kind_of_model_is_refused_by_its_kind(
    settings: dict[str, Any], told: str, source: Path
):
    architectures = {} if "architectures" in settings else {"architectures": ["OwnForCausalLM"]}
    configure(source, **architectures, **settings)

    assert told in refusal(source)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ, 4 bits"),
        ({"quant_method": "awq", "bits": 4, "zero_point": True}, "AWQ, 4 bits"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, "bitsandbytes, 4 bits"),
        ({"load_in_8bit": True, "load_in_4bit": False}, "bitsandbytes, 8 bits"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8"),
        ({"quant_method": "fbgemm_fp8"}, "fbgemm FP8"),
        ({"quant_method": "torchao", "quant_type": {}}, "torchao"),
        ({"quant_method": "mxfp4"}, "MXFP4"),
        ({"quant_method": "of_next_year"}, "of_next_year"),
    ],
)
def test_settings_of_a_quantiser_are_refused_with_its_name(settings: dict[str, Any], told: str, source: Path):
    configure(source, quantization_config=settings)
    message = refusal(source)

    assert told in message
    assert "quantised" in message


def words(weights: Weights, dtype: torch.dtype, **parts: torch.Tensor) -> Weights:
    """Projections of another number type, with tensors beside each."""
    found: Weights = {}
    for name, tensor in weights.items():
        if "_proj" not in name:
            found[name] = tensor
            continue
        found[name] = torch.zeros(tensor.shape[0], max(1, tensor.shape[1] // 8)).to(dtype)
        found |= {name.removesuffix("weight") + part: value.clone() for part, value in parts.items()}
    return found


def packed(weights: Weights, *parts: str) -> Weights:
    """Projections that are stored under other names."""
    found = {name: tensor for name, tensor in weights.items() if "_proj" not in name}
    stems = [name.removesuffix("weight") for name in weights if "_proj" in name]
    return found | {stem + part: torch.zeros(2, 2, dtype=torch.int32) for stem in stems for part in parts}


ONE = torch.ones(1)
QUANTISED: dict[str, tuple[Callable[[Weights], Weights], str, str]] = {
    # weights, a file beside them, what the line must hold
    "old GPTQ": (lambda w: packed(w, "qweight", "qzeros", "scales"), "quantize_config.json", "(GPTQ)"),
    "GPTQ": (lambda w: packed(w, "qweight", "qzeros", "scales", "g_idx"), "", "(GPTQ)"),
    "old AWQ": (lambda w: packed(w, "qweight", "qzeros", "scales"), "quant_config.json", "(AWQ)"),
    "GPTQ or AWQ": (lambda w: packed(w, "qweight", "qzeros", "scales"), "", "GPTQ or AWQ"),
    "MLX": (lambda w: words(w, torch.uint32, scales=ONE, biases=ONE), "", "MLX"),
    "bitsandbytes in 8 bits": (lambda w: words(w, torch.int8, SCB=ONE), "", "bitsandbytes, 8 bits"),
    "bitsandbytes in 4 bits": (
        lambda w: words(w, torch.uint8, **{"weight.absmax": ONE, "weight.quant_state.bitsandbytes__nf4": ONE}),
        "",
        "bitsandbytes, 4 bits",
    ),
    "compressed-tensors": (
        lambda w: packed(w, "weight_packed", "weight_scale", "weight_shape"),
        "",
        "compressed-tensors",
    ),
    "FP8 by blocks": (lambda w: words(w, torch.float8_e4m3fn, weight_scale_inv=ONE), "", "FP8"),
    "FP8 alone": (lambda w: words(w, torch.float8_e5m2), "", "FP8"),
    "MXFP4": (
        lambda w: {**w, "model.layers.0.mlp.experts.down_proj_blocks": torch.zeros(2, dtype=torch.uint8)},
        "",
        "MXFP4",
    ),
    "integers": (lambda w: words(w, torch.int8), "", "int8"),
}


@pytest.mark.parametrize(("change", "file", "told"), QUANTISED.values(), ids=QUANTISED)
def test_quantised_weights_are_recognised_by_their_tensors(
    change: Callable[[Weights], Weights], file: str, told: str, source: Path
):
    rewrite(source, change)
    if file:
        (source / file).write_text("{}")
    message = refusal(source)

    assert told in message
    assert "quantised" in message


def test_weights_of_mlx_are_recognised_by_its_settings(source: Path):
    rewrite(source, lambda w: words(w, torch.uint32, scales=ONE, biases=ONE))
    configure(source, quantization={"group_size": 64, "bits": 4})

    assert "MLX, 4 bits" in refusal(source)


def rewrite(source: Path, change: Callable[[Weights], Weights]) -> None:
    # Copies, as these would be views of the file that is written.
    weights = {name: tensor.clone() for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(change(weights), source / "model.safetensors")


def named(change: Callable[[str], str]) -> Callable[[Weights], Weights]:
    return lambda weights: {change(name): tensor for name, tensor in weights.items()}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: tensor for name, tensor in weights.items() if part not in name}


def plus(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: torch.zeros(2, 2) for name in names}


WRONG: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "an adapter's wrapper": (named(lambda name: "base_model.model." + name), "base_model.model."),
    "parallel training": (named(lambda name: "module." + name), "module."),
    "a compiled model": (named(lambda name: "_orig_mod." + name), "_orig_mod."),
    "another wrapper": (named(lambda name: "net.inner." + name), "net.inner."),
    "a base model": (named(lambda name: name.removeprefix("model.")), "lack the prefix model."),
    "multimodal": (named(lambda name: "language_model." + name), "multimodal"),
    "an adapter": (plus("model.layers.0.self_attn.q_proj.lora_A.weight"), "adapter"),
    "a classifier": (plus("score.weight"), "classifier"),
    "a value head": (plus("v_head.summary.weight"), "value head"),
    "experts": (plus("model.layers.0.mlp.experts.0.up_proj.weight"), "mixture of experts"),
    "a missing block": (without(".layers.1."), "block 1 is missing"),
    "a further block": (
        lambda weights: (
            weights | {name.replace(".0.", ".2."): w.clone() for name, w in weights.items() if ".0." in name}
        ),
        "num_hidden_layers",
    ),
    "no head": (without("lm_head"), "the head is missing"),
    "another vocabulary": (
        lambda weights: (
            weights | {"model.embed_tokens.weight": torch.zeros(400, 64), "lm_head.weight": torch.zeros(400, 64)}
        ),
        "a vocabulary of 384 and the weights one of 400",
    ),
    "fused projections": (plus("model.layers.0.self_attn.qkv_proj.weight"), "one matrix"),
    "something else": (without("norm"), "different models"),
}


@pytest.mark.parametrize(("change", "told"), WRONG.values(), ids=WRONG)
def test_wrong_weights_are_refused_with_the_likeliest_cause(
    change: Callable[[Weights], Weights], told: str, tiny_source: Callable[..., Path], tmp_path: Path
):
    source = shutil.copytree(tiny_source("llama", tie_word_embeddings=False), tmp_path / "tiny")
    expected = {name: tensor.shape for name, tensor in read_directory(source).tensors.items()}
    rewrite(source, change)

    with pytest.raises(SourceError) as caught:
        check_weights(read_directory(source), expected, lambda name: None)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_base_model_without_its_head_is_recognised_by_its_class(tiny_source: Callable[..., Path], tmp_path: Path):
    source = shutil.copytree(tiny_source("llama", tie_word_embeddings=False), tmp_path / "tiny")
    expected = {name: tensor.shape for name, tensor in read_directory(source).tensors.items()}
    rewrite(source, without("lm_head"))
    configure(source, architectures=["LlamaModel"])

    with pytest.raises(SourceError, match="base model without its head"):
        check_weights(read_directory(source), expected, lambda name: None)
