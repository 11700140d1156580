"""The weights of a model by name, in float32, one at a time. It knows no graph."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail_ort_export.source.causal_lm import CausalLM
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.graph_names import COS_TABLE, SIN_TABLE


class NamedWeights:
    """Weights for a graph, by name. They are converted to float32 when they are asked for.

    Args:
        tensors: weights of any floating-point type by name; a tensor may have several names.

    Attributes:
        tensors: the same weights.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._first_name = {id(tensor): name for name, tensor in reversed(tensors.items())}

    def canonical_name(self, name: str) -> str:
        """The first name of a tensor that has several names, such as an embedding that is also the head."""
        return self._first_name[id(self.tensors[name])]

    def __contains__(self, name: str) -> bool:
        """Whether there is a weight `name`, which may be any of its names."""
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Dimensions of the weight `name`."""
        return tuple(self.tensors[name].shape)

    def __getitem__(self, name: str) -> FloatArray:
        """The weight `name` as a float32 array; it is a view if the tensor is in float32 already."""
        values: FloatArray = self.tensors[name].detach().to(torch.float32).numpy()
        return values


class Weights(NamedWeights):
    """Parameters and rotary tables of a transformers causal LM.

    Args:
        model: the model, whose parameters may be of any floating-point type.
        max_context: number of rows of the rotary tables.

    Attributes:
        num_parameters: number of parameters; one that has two names is counted once.
    """

    def __init__(self, model: CausalLM, *, max_context: int) -> None:
        parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        super().__init__(parameters | _rotary_tables(model, max_context))
        self._distinct = sorted(set(map(self.canonical_name, parameters)))
        self.num_parameters = sum(parameters[name].numel() for name in self._distinct)

    def sha256(self) -> str:
        """Hexadecimal SHA-256 over the names, shapes and float32 values of the distinct parameters."""
        digest = hashlib.sha256()
        for name in self._distinct:
            digest.update(f"{name} {self.shape(name)}\n".encode())
            digest.update(np.ascontiguousarray(self[name]).data)
        return digest.hexdigest()


@torch.no_grad()
def _rotary_tables(model: CausalLM, max_context: int) -> dict[str, Tensor]:
    """Cosine and sine by position, (max_context, D / 2) float32 each.

    transformers has every value twice, and GroupQueryAttention reads it once.
    """
    positions = torch.arange(max_context)[None]
    cos, sin = model.model.rotary_emb(torch.zeros(1, dtype=torch.float32), positions)
    half = cos.shape[-1] // 2
    return {COS_TABLE: cos[0, :, :half].contiguous(), SIN_TABLE: sin[0, :, :half].contiguous()}


def head_size(config: Any) -> int:
    """D, the width of one attention head, by a configuration of transformers."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
