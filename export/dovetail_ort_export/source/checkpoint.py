"""What any kind of model file comes to: settings as the publisher wrote them, tensors by name, and the way to text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredTensor:
    """A tensor in a file, not read yet.

    Attributes:
        shape: of the tensor.
        dtype: of what `read` gives.
        read: gives the tensor; a view of the mapped file where the format allows it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextParts:
    """How a model's text becomes token ids.

    Attributes:
        tokenizer: of the `tokenizers` package.
        chat_template: Jinja source, or None.
        special_tokens: names that the chat template may use, such as `bos_token`, to their text.
        eos_token_ids: tokens that end an answer, one or more.
        notes: what the user should know of them, a line each.
    """

    tokenizer: Tokenizer
    chat_template: str | None
    special_tokens: dict[str, str]
    eos_token_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """A model's files, read as far as its settings; no weight has been read yet.

    Attributes:
        name: of the model: the hub's repository, the GGUF metadata's name, or the directory's; never empty.
        path: the directory, or the first GGUF file.
        config: the configuration with the keys of a `config.json`, in whichever spelling the publisher used.
        generation: `generation_config.json`; empty if there is none.
        tensors: by the parameter names of transformers.
        text: tokenizer, chat template, special tokens and ends of an answer.
        licence: as the source states it, or None.
        revision: commit of a hub repository, or None.
        notes: what the user should know of the files, a line each.
    """

    name: str
    path: Path
    config: dict[str, Any]
    generation: dict[str, Any]
    tensors: dict[str, StoredTensor]
    text: TextParts
    licence: str | None = None
    revision: str | None = None
    notes: tuple[str, ...] = ()
