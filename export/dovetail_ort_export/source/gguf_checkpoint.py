"""A GGUF file as a checkpoint: settings of a `config.json`, tensors by the parameter names of transformers.

    file and its parts ── metadata ──> gguf_settings, gguf_rotary ──> config
                       ├─ vocabulary ─> gguf_tokenizer ───────────> text
                       └─ tensors ───> names and order of rows ────> tensors, dequantised when they are read

It does not know which tensors a model needs: the check of all weights does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import torch
from torch import Tensor

from dovetail_ort_export.source.checkpoint import Checkpoint, StoredTensor
from dovetail_ort_export.source.gguf_file import GgufFile, open_gguf, part_stem
from dovetail_ort_export.source.gguf_rotary import FACTORS, LONG_FACTORS, SHORT_FACTORS, Factors
from dovetail_ort_export.source.gguf_settings import check_kind, model_settings
from dovetail_ort_export.source.gguf_tokenizer import read_gguf_text
from dovetail_ort_runtime.arrays import Shape
from dovetail_ort_runtime.errors import SourceError

_EMBEDDING: Final = "token_embd.weight"
_REORDERED: Final = ("llama",)  # architectures whose converters reorder the rows of query and key
_BLOCK_TENSOR: Final = re.compile(r"blk\.(?P<block>\d+)\.(?P<part>\w+)\.(?P<kind>weight|bias)")
_BLOCK_PREFIX: Final = re.compile(r"model\.layers\.\d+\.")
_OUTER_NAMES: Final = {
    _EMBEDDING: "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HASH: Final = re.compile(r"[0-9a-f]{32,64}", re.IGNORECASE)
# Frequencies that old converters stored for each block; they follow from the settings.
_UNNEEDED: Final = re.compile(r"blk\.\d+\.attn_rot_embd\.weight")


def read_gguf(path: Path) -> Checkpoint:
    """Read the settings and the vocabulary of a GGUF file, but no weights.

    Tensors are float32. A tensor or a key of unknown meaning keeps its name, for the checks of weights and settings.

    Args:
        path: the file, or the first of its parts.

    Raises:
        SourceError: the file is damaged, incomplete, or of a kind that is not covered.
    """
    file = open_gguf(path)
    check_kind(file.metadata)
    config = model_settings(file.metadata, file.tensors, _factors(file), _rows(file))
    return Checkpoint(
        name=_name(file),
        path=path,
        config=config,
        generation={},
        tensors=_stored_tensors(file, config),
        text=read_gguf_text(file.metadata),
        licence=file.metadata.get("general.license") or None,
    )


def _name(file: GgufFile) -> str:
    """Name of the model: the publisher's name for it, or the parts of a name, or the file's name, or the architecture.

    A hash is not used as a name: converters take the name of the directory, which in a hub cache is a commit.
    """
    metadata = file.metadata
    stated = str(metadata.get("general.name", "")).strip()
    parts = [str(metadata.get(f"general.{key}", "")).strip() for key in ("basename", "size_label", "finetune")]
    joined = "-".join(part for part in parts if part) if parts[0] else ""
    for name in (stated, joined, part_stem(file.path)):
        if name and not _HASH.fullmatch(name):
            return name
    return str(metadata["general.architecture"])


def _rows(file: GgufFile) -> int:
    """Number of rows of the embedding. The vocabulary may have fewer tokens, as publishers round its size up."""
    if _EMBEDDING not in file.tensors:
        raise SourceError(
            f"a GGUF file must have the tensor {_EMBEDDING}, got none in {file.path.name}; give the file of the model"
        )
    rows = _shape(file.tensors[_EMBEDDING])[0]
    num_tokens = len(file.metadata.get("tokenizer.ggml.tokens", []))
    if num_tokens > rows:
        raise SourceError(
            f"{_EMBEDDING} must have a row for each of {num_tokens} tokens, got {rows}; convert the model again"
        )
    return rows


def _factors(file: GgufFile) -> dict[str, Factors]:
    """The tensors that divide rotary frequencies, by name."""
    names = (FACTORS, SHORT_FACTORS, LONG_FACTORS)
    return {name: _values(file.tensors[name]).reshape(-1) for name in names if name in file.tensors}


def _stored_tensors(file: GgufFile, config: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """The tensors of a model by the names of transformers' parameters."""
    is_reordered = file.metadata["general.architecture"] in _REORDERED
    shapes = _expected_shapes(config, _head_size(config))
    found = {}
    for name, tensor in file.tensors.items():
        if name in (FACTORS, SHORT_FACTORS, LONG_FACTORS) or _UNNEEDED.fullmatch(name):
            continue
        _check_readable(tensor)
        ours = _parameter_name(name)
        _check_shape(tensor, shapes.get(_BLOCK_PREFIX.sub("", ours)))
        heads = _heads(ours, config) if is_reordered else None
        found[ours] = StoredTensor(shape=_shape(tensor), dtype=torch.float32, read=partial(_read, tensor, heads))
    return found


def _parameter_name(name: str) -> str:
    """The name of a tensor in transformers; a tensor that is not known keeps its own name."""
    match = _BLOCK_TENSOR.fullmatch(name)
    if match is None or match["part"] not in _BLOCK_NAMES:
        return _OUTER_NAMES.get(name, name)
    return f"model.layers.{match['block']}.{_BLOCK_NAMES[match['part']]}.{match['kind']}"


def _head_size(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim", config["hidden_size"] // config["num_attention_heads"]))


def _expected_shapes(config: Mapping[str, Any], head_size: int) -> dict[str, Shape]:
    """Shapes by the names of parameters, without the part that names the block."""
    width = config["hidden_size"]
    inner = config["intermediate_size"]
    queries = config["num_attention_heads"] * head_size
    keys = config["num_key_value_heads"] * head_size
    vocabulary = config["vocab_size"]
    projections = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    norms = {
        "input_layernorm": width,
        "post_attention_layernorm": width,
        "self_attn.q_norm": head_size,
        "self_attn.k_norm": head_size,
    }
    return {
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (vocabulary, width),
        **{f"{name}.weight": shape for name, shape in projections.items()},
        **{f"{name}.bias": shape[:1] for name, shape in projections.items()},
        **{f"{name}.weight": (size,) for name, size in norms.items()},
    }


def _shape(tensor: gguf.ReaderTensor) -> Shape:
    return tuple(int(size) for size in reversed(tensor.shape))  # the file's first axis is the innermost


def _check_shape(tensor: gguf.ReaderTensor, expected: Shape | None) -> None:
    if expected is not None and _shape(tensor) != expected:
        raise SourceError(
            f"the shape of {tensor.name} must be {expected}, as the file's metadata says, got {_shape(tensor)}; "
            "convert the model again"
        )


def _check_readable(tensor: gguf.ReaderTensor) -> None:
    """Refuse a tensor of a type that the package cannot convert, although it knows the type.

    One block of zeros is dequantised to find out.
    """
    _, block_bytes = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
    try:
        with np.errstate(all="ignore"):
            gguf.dequantize(np.zeros((1, block_bytes), dtype=np.uint8), tensor.tensor_type)
    except NotImplementedError as error:
        raise SourceError(
            f"{tensor.name} must be of a type that the gguf package can convert, got {tensor.tensor_type.name}; "
            "take a file of another type, such as Q8_0 or Q4_K_M"
        ) from error


def _values(tensor: gguf.ReaderTensor) -> Factors:
    """A tensor in float32, copied, because the package may give a view of the file."""
    return np.require(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32, ["C", "W"])


def _read(tensor: gguf.ReaderTensor, heads: int | None) -> Tensor:
    """A tensor in float32; `heads` is the number of heads whose rows are reordered, or None."""
    values = torch.from_numpy(_values(tensor))
    return values if heads is None else _as_transformers(values, heads)


def _heads(name: str, config: Mapping[str, Any]) -> int | None:
    """Number of heads of a tensor whose rows are reordered; None for all other tensors."""
    if ".self_attn.q_proj." in name:
        return int(config["num_attention_heads"])
    if ".self_attn.k_proj." in name:
        return int(config["num_key_value_heads"])
    return None


def _as_transformers(rows: Tensor, heads: int) -> Tensor:
    """Rows of query or key in the order of transformers.

    llama.cpp rotates neighbours, and transformers rotates halves. Example: for a head of four rows, a file has them in
    the order 0 2 1 3.
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)
