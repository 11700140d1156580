"""The weights of a model in float32, one at a time: by name, or leaf by leaf while it runs; it knows no graph."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.graph_names import COS_TABLE, SIN_TABLE


class NamedWeights:
    """Weights that a graph can be given, in float32, read when they are asked for.

    Args:
        tensors: of any float type, by name; a tensor may have several.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._first_name = {id(tensor): name for name, tensor in reversed(tensors.items())}

    def canonical_name(self, name: str) -> str:
        """The first name of a tensor that has several (a tied embedding and head)."""
        return self._first_name[id(self.tensors[name])]

    def __contains__(self, name: str) -> bool:
        """Whether there is a weight `name`, which may be any of its names."""
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the weight `name`."""
        return tuple(self.tensors[name].shape)

    def __getitem__(self, name: str) -> FloatArray:
        """The weight `name` as a float32 array, a view where the tensor is float32 already."""
        values: FloatArray = self.tensors[name].detach().to(torch.float32).numpy()
        return values


class Weights(NamedWeights):
    """Parameters and rotary caches of a transformers causal LM.

    Args:
        model: the model; its parameters may be of any float type.
        max_context: rows of the rotary caches.

    Attributes:
        num_parameters: counted once where two names share one.
    """

    def __init__(self, model: Any, *, max_context: int) -> None:
        parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        super().__init__(parameters | _rotary_caches(model, max_context))
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
def _rotary_caches(model: Any, max_context: int) -> dict[str, Tensor]:
    """(max_context, D / 2) float32 each; transformers repeats the half, GroupQueryAttention reads it once."""
    positions = torch.arange(max_context)[None]
    cos, sin = model.model.rotary_emb(torch.zeros(1, dtype=torch.float32), positions)
    half = cos.shape[-1] // 2
    return {COS_TABLE: cos[0, :, :half].contiguous(), SIN_TABLE: sin[0, :, :half].contiguous()}


def head_size(config: Any) -> int:
    """D, the width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


@contextmanager
def float32_leaves(model: nn.Module) -> Iterator[None]:
    """Widen each leaf's parameters only while it runs, so that a bfloat16 model is never held in float32 as a whole.

    What a leaf gets back are its own tensors, not copies: those that a checkpoint's file is mapped to stay mapped.
    """
    with ExitStack() as hooks:
        for module in model.modules():
            if any(parameter.dtype != torch.float32 for parameter in module.parameters(recurse=False)):
                leaf = _WideLeaf(module)
                hooks.enter_context(module.register_forward_pre_hook(leaf.widen))
                hooks.enter_context(module.register_forward_hook(leaf.narrow, always_call=True))
        yield


class _WideLeaf:
    """One module's parameters, swapped for float32 copies and back by the hooks of its forward."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = list(module.parameters(recurse=False))
        self._own: list[Tensor] = []

    def widen(self, *_: Any) -> None:
        self._own = [parameter.data for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.data = parameter.data.to(torch.float32)

    def narrow(self, *_: Any) -> None:
        for parameter, own in zip(self._parameters, self._own, strict=True):
            parameter.data = own
