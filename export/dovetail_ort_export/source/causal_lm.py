"""A causal LM of transformers, as far as this package uses it. transformers ships no types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, Self

import torch
from torch import nn


class CausalLM(Protocol):
    """A torch module with the decoder and the head of a model.

    Attributes:
        config: configuration of transformers.
        model: the decoder, with `embed_tokens`, `layers`, `norm` and `rotary_emb`.
        lm_head: module from hidden states (..., E) to logits (..., V).
    """

    config: Any
    model: Any
    lm_head: nn.Module

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run a forward, as transformers documents it."""

    def modules(self) -> Iterator[nn.Module]:
        """The module itself, and all modules within it."""

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        """Modules with their paths; that of the module itself is empty."""

    def named_parameters(self, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters with their paths; one that has two paths comes twice if duplicates stay."""

    def to(self, *, device: torch.device, dtype: torch.dtype) -> Self:
        """Move the parameters to a device and into a number type."""
