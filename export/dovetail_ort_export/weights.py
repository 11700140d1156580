"""The weights of a model in float32, one at a time: by name, or leaf by leaf while it runs; it knows no graph."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dovetail_ort_export.operators import COS_CACHE, SIN_CACHE
from dovetail_ort_runtime.arrays import FloatArray


class NamedWeights(Protocol):
    """Weights that a graph can be given: a model's own, or those of an equal model."""

    def canonical_name(self, name: str) -> str:
        """The first name of a parameter that has several (a tied embedding and head)."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the weight `name`."""

    def __getitem__(self, name: str) -> FloatArray:
        """The weight `name` as a float32 array."""


class Weights:
    """Parameters and rotary caches of a transformers causal LM, in float32, read when they are asked for.

    Args:
        model: the model; its parameters may be of any float type.
        max_context: rows of the rotary caches.
    """

    def __init__(self, model: Any, *, max_context: int) -> None:
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        first_name: dict[int, str] = {}
        for name, parameter in self._parameters.items():
            first_name.setdefault(id(parameter), name)
        self._canonical = {name: first_name[id(parameter)] for name, parameter in self._parameters.items()}
        self._rotary = _rotary_caches(model, max_context)

    def canonical_name(self, name: str) -> str:
        """The first name of a parameter that has several (a tied embedding and head)."""
        return self._canonical.get(name, name)

    def __contains__(self, name: str) -> bool:
        """Whether the model has the weight `name`, which may be any of its names."""
        return name in self._rotary or name in self._parameters

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the weight `name`."""
        return tuple(self._rotary[name].shape if name in self._rotary else self._parameters[name].shape)

    def __getitem__(self, name: str) -> FloatArray:
        """The weight `name` as a float32 array, a view where the parameter is float32 already."""
        if name in self._rotary:
            return self._rotary[name]
        values: NDArray[np.float32] = self._parameters[name].detach().to(torch.float32).numpy()
        return values

    @property
    def num_parameters(self) -> int:
        """Number of distinct parameters, counted once where two names share one."""
        return sum(self._parameters[name].numel() for name in set(self._canonical.values()))

    def sha256(self) -> str:
        """Hexadecimal SHA-256 over the names, shapes and float32 values of the distinct parameters."""
        digest = hashlib.sha256()
        for name in sorted(set(self._canonical.values())):
            digest.update(f"{name} {self.shape(name)}\n".encode())
            digest.update(np.ascontiguousarray(self[name]).data)
        return digest.hexdigest()


@torch.no_grad()
def _rotary_caches(model: Any, max_context: int) -> dict[str, FloatArray]:
    """(max_context, D / 2) float32 each; transformers repeats the half, GroupQueryAttention reads it once."""
    positions = torch.arange(max_context)[None]
    cos, sin = model.model.rotary_emb(torch.zeros(1, dtype=torch.float32), positions)
    half = cos.shape[-1] // 2
    return {COS_CACHE: cos[0, :, :half].contiguous().numpy(), SIN_CACHE: sin[0, :, :half].contiguous().numpy()}


@contextmanager
def float32_leaves(model: nn.Module) -> Iterator[None]:
    """Widen each leaf's parameters only while it runs, so that a bfloat16 model is never held in float32 as a whole.

    What a leaf gets back are its own tensors, not copies: those that a checkpoint's file is mapped to stay mapped.
    """
    handles = []
    for module in model.modules():
        if any(parameter.dtype != torch.float32 for parameter in module.parameters(recurse=False)):
            leaf = _WideLeaf(module)
            handles.append(module.register_forward_pre_hook(leaf.widen))
            handles.append(module.register_forward_hook(leaf.narrow, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
