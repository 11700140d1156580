"""An independent witness: logits of a short text, recomputed from a model's files alone.

    files            `directory.py` or `gguf_file.py`: raw settings, and tensors that are read when they are used
    -> Architecture  a family's page (`llama.py` ...) or `gguf_keys.py`: what the publisher's settings mean
    -> logits        embedding, `blocks.py` for each block, norm, head, with one matrix in memory at a time

It shares no code with the trace and uses no model library, so that it does not share their mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dovetail_ort_export.checking.witness import llama, mistral, qwen2, qwen3
from dovetail_ort_export.checking.witness.architecture import Architecture
from dovetail_ort_export.checking.witness.blocks import decoder_block, rms_norm
from dovetail_ort_export.checking.witness.directory import read_config, read_tensors
from dovetail_ort_export.checking.witness.gguf_file import read_gguf
from dovetail_ort_export.checking.witness.gguf_keys import architecture_of
from dovetail_ort_export.checking.witness.positions import witness_positions
from dovetail_ort_export.checking.witness.stored import StoredRows, Weights
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.errors import InputError, SourceError

__all__ = ["Testimony", "testify", "witness_positions"]

_FAMILIES: Final[dict[str, ModuleType]] = {"llama": llama, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3}
_EMBEDDING: Final = "model.embed_tokens.weight"
_HEAD: Final = "lm_head.weight"
_MOST_IN_FLOAT64: Final = 1_000_000_000  # parameters; above, time and memory matter more than the last digits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Testimony:
    """What the witness computed.

    Attributes:
        logits: (T, V), float64 up to a billion parameters, float32 above.
        num_parameters: number of parameters in all tensors of the files.
        seconds: time that the witness took, reading the files included.
    """

    logits: NDArray[np.float32] | NDArray[np.float64]
    num_parameters: int
    seconds: float


def testify(path: Path, token_ids: TokenArray, positions: TokenArray, *, max_context: int) -> Testimony:
    """Recompute the logits of a text from a model's files.

    Args:
        path: model directory, or GGUF file, the first if there are several parts.
        token_ids: (T,).
        positions: (T,), where the tokens stand: ascending, under `max_context`, gaps allowed. A token sees the given
            tokens at smaller positions.
        max_context: longest text of the bundle; it chooses LongRoPE's table.

    Raises:
        SourceError: the files are not of a model that the witness knows.
        InputError: tokens and positions do not fit each other or the model.
    """
    begin = perf_counter()
    model, tensors = _read(path, max_context)
    _check_text(token_ids, positions, max_context, tensors)
    num_parameters = sum(prod(stored.shape) for stored in tensors.values())
    dtype = torch.float64 if num_parameters <= _MOST_IN_FLOAT64 else torch.float32
    with torch.inference_mode():
        logits = _logits(torch.tensor(token_ids), torch.tensor(positions), Weights(tensors=tensors, dtype=dtype), model)
    return Testimony(logits=logits.numpy(), num_parameters=num_parameters, seconds=perf_counter() - begin)


def _read(path: Path, max_context: int) -> tuple[Architecture, dict[str, StoredRows]]:
    if path.is_file():
        metadata, tensors = read_gguf(path)
        return architecture_of(metadata, tensors, max_context), tensors
    config = read_config(path)
    family = _FAMILIES.get(config.get("model_type", ""))
    if family is None:
        raise SourceError(f"model_type must be one of {', '.join(_FAMILIES)}, got {config.get('model_type')!r}")
    return family.architecture(config, max_context), read_tensors(path)


def _logits(token_ids: Tensor, positions: Tensor, weights: Weights, model: Architecture) -> Tensor:
    """(T, V): the whole model."""
    embedding = _EMBEDDING
    head = _HEAD
    if model.tied:  # one tensor, which a file may hold under either name
        has_only_head = _HEAD in weights.tensors and _EMBEDDING not in weights.tensors
        shared = _HEAD if has_only_head else _EMBEDDING
        embedding = shared
        head = shared
    hidden = weights.embed(embedding, token_ids, model.hidden_size)
    for index in range(len(model.rotations)):
        hidden = decoder_block(index, hidden, positions, weights.block(index), model)
    hidden = rms_norm(hidden, weights.vector("model.norm.weight", model.hidden_size), model.norm_epsilon)
    return weights.score(head, hidden)


def _check_text(token_ids: TokenArray, positions: TokenArray, max_context: int, tensors: dict[str, StoredRows]) -> None:
    if token_ids.ndim != 1 or token_ids.shape != positions.shape or not len(token_ids):
        raise InputError(f"a text must have one position for each token, got {token_ids.shape} and {positions.shape}")
    if positions[0] < 0 or positions[-1] >= max_context or np.any(np.diff(positions) <= 0):
        raise InputError(f"positions must ascend from 0 to less than {max_context}, got {positions.tolist()}")
    embedding = tensors.get(_EMBEDDING)
    if embedding is not None and not 0 <= token_ids.min() <= token_ids.max() < embedding.shape[0]:
        raise InputError(f"token ids must be under {embedding.shape[0]}, got {token_ids.max()}")
