"""A model's files in one form, whatever their kind: the publisher's settings, tensors by name, and the tokenizer.

It knows no kind of file.
"""

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
    """A tensor in a file that has not been read yet.

    Attributes:
        shape: dimensions of the tensor.
        dtype: number type of the tensor that `read` gives.
        read: function that gives the tensor; it is a view of the mapped file where the format allows that.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextParts:
    """How a model's text becomes token ids.

    Attributes:
        tokenizer: tokenizer of the `tokenizers` package.
        chat_template: Jinja source of the chat template, or None if there is none.
        special_tokens: text of special tokens by the names that a chat template may use, such as `bos_token`.
        eos_token_ids: ids of the tokens that end an answer, one or more.
        notes: remarks on the text files that the user should read, a line each.
    """

    tokenizer: Tokenizer
    chat_template: str | None
    special_tokens: dict[str, str]
    eos_token_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """A model's files, of which the settings and the text files have been read, and no weights yet.

    Attributes:
        name: name of the model: the hub's repository, the name in the GGUF metadata, or the directory's name.
        path: the directory, or the first GGUF file.
        config: the configuration with the keys of a `config.json`, in whichever spelling the publisher used.
        generation: content of `generation_config.json`; empty if there is no such file.
        tensors: tensors by the names of transformers' parameters.
        text: how the model's text becomes token ids.
        licence: licence in the words of the source, or None if it states none.
        revision: commit of a repository of the hub, or None.
        notes: remarks on the files that the user should read, a line each.
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
