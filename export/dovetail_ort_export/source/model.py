"""A checkpoint as a transformers model on the files' own tensors: no weight is invented, renamed or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import reduce
from typing import Any, Final

import torch
import transformers
from accelerate import init_empty_weights
from optimum.exporters.tasks import TasksManager
from torch import Tensor

from dovetail_ort_export.source.causal_lm import CausalLM
from dovetail_ort_export.source.checkpoint import Checkpoint
from dovetail_ort_export.source.families.family import reason_unneeded
from dovetail_ort_export.source.settings import Settings
from dovetail_ort_export.source.weight_check import UnusedWeights, check_finite, check_weights
from dovetail_ort_runtime.errors import SourceError, one_line

_TASK: Final = "text-generation"
_HEAD: Final = "lm_head.weight"
_EMBEDDING: Final = "model.embed_tokens.weight"


def build_model(
    checkpoint: Checkpoint, settings: Settings, ignore_weights: Sequence[str] = ()
) -> tuple[CausalLM, UnusedWeights]:
    """Build the model of a checkpoint.

    Args:
        checkpoint: files of the model; its tensors are read here.
        settings: the settings of its configuration.
        ignore_weights: patterns for names of tensors that are ignored although the model has no use for them.

    Returns:
        A transformers causal LM in evaluation mode, in the number type of its files, and the tensors that it has no use
        for.

    Raises:
        SourceError: a tensor is missing, has no place in the model, or has another shape or values that are not finite.
    """
    model = _empty_model(settings)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = bool(model.config.tie_word_embeddings)
    if tied:
        del expected[_HEAD]
        checkpoint = _with_embedding(checkpoint)
        _check_tied_head(checkpoint, ignore_weights)
    unused = check_weights(checkpoint, expected, lambda name: _unneeded(name, tied), ignore_weights)
    state = read_weights(checkpoint, expected)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.eval(), unused


def _empty_model(settings: Settings) -> Any:
    """The model without values: parameters on torch's meta device, buffers computed."""
    try:
        config = transformers.AutoConfig.for_model(settings.family.model_type, **settings.values)
    except Exception as error:  # newer releases check settings, each with errors of its own
        raise SourceError(
            f"transformers {transformers.__version__} cannot read these settings: {one_line(error)}; "
            "correct config.json"
        ) from None
    model_class = TasksManager.get_model_class_for_task(_TASK)
    with init_empty_weights(include_buffers=False):
        return model_class.from_config(config)


def _unneeded(name: str, tied: bool) -> str | None:
    """Why the model needs no tensor of this name, or None if no reason is known."""
    if tied and name == _HEAD:
        return "the embedding, which is the head"
    return reason_unneeded(name)


def _with_embedding(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, with the head as its embedding if the files have only the head.

    Of two names of one tensor, safetensors' `save_model` keeps the first one of the alphabet, which is the head's.
    """
    head = checkpoint.tensors.get(_HEAD)
    if head is None or _EMBEDDING in checkpoint.tensors:
        return checkpoint
    return replace(checkpoint, tensors={**checkpoint.tensors, _EMBEDDING: head})


def _check_tied_head(checkpoint: Checkpoint, ignore_weights: Sequence[str]) -> None:
    """Refuse a head in the files that differs from the embedding, in a model whose head is the embedding."""
    stored = checkpoint.tensors.get(_HEAD)
    embedding = checkpoint.tensors.get(_EMBEDDING)
    is_ignored = any(fnmatchcase(_HEAD, pattern) for pattern in ignore_weights)
    if stored is None or embedding is None or is_ignored:
        return
    if stored.shape != embedding.shape or not torch.equal(stored.read(), embedding.read()):
        raise SourceError(
            f"{_HEAD} must equal the embedding where tie_word_embeddings is true, got another tensor; "
            f"set tie_word_embeddings to false in config.json, or go on with --ignore-weights {_HEAD}"
        )


def read_weights(checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors by name, all in the widest number type of the files, so that nothing is lost."""
    stored = {name: checkpoint.tensors[name] for name in expected}
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in stored.values()))
    state = {}
    for name, tensor in stored.items():
        values = tensor.read()
        check_finite(name, values)
        state[name] = values.to(dtype)
    return state
