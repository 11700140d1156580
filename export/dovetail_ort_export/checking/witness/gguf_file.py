"""A GGUF file, in one part or several: its metadata, and its tensors under the names of a model directory."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

from dovetail_ort_export.checking.witness.stored import StoredRows
from dovetail_ort_runtime.errors import SourceError

_PART: Final = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf")

# A block's tensors in GGUF, by their names in a model directory.
_IN_BLOCK: Final = {
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
_OUTSIDE: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, StoredRows]]:
    """Metadata of the first part without its vocabulary, and the tensors of all parts.

    Raises:
        SourceError: a part is missing or cannot be read.
    """
    readers = [_open(part) for part in _parts(path)]
    fields = readers[0].fields
    metadata = {key: field.contents() for key, field in fields.items() if not key.startswith("tokenizer.")}
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    return metadata, {_directory_name(tensor.name): _stored(tensor) for tensor in tensors}


def _parts(path: Path) -> list[Path]:
    found = _PART.fullmatch(path.name)
    if found is None:
        return [path]
    count = int(found["parts"])
    return [path.with_name(f"{found['stem']}-{part:05}-of-{count:05}.gguf") for part in range(1, count + 1)]


def _open(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise SourceError(f"{path} cannot be read as a GGUF file: {error}; download it again") from error


def _directory_name(name: str) -> str:
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if found is None or found[2] not in _IN_BLOCK:
        return _OUTSIDE.get(name, name)
    return f"model.layers.{found[1]}.{_IN_BLOCK[found[2]]}.{found[3]}"


def _stored(tensor: Any) -> StoredRows:
    shape = tuple(int(length) for length in reversed(tensor.shape))  # GGUF counts from the fastest axis
    return StoredRows(shape=shape, read=partial(_rows, tensor))


def _rows(tensor: Any, start: int, stop: int) -> Tensor:
    try:
        numbers = dequantize(tensor.data[start:stop], tensor.tensor_type)
    except NotImplementedError as error:
        raise SourceError(f"the gguf package cannot read the type of {tensor.name}: {error}; update it") from error
    return torch.from_numpy(np.array(numbers, dtype=np.float32))
