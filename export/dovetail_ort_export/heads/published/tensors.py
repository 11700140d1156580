"""The tensors of a published head under canonical names, each used, known to be unneeded, or refused.

Canonical names are those of `Eagle3Head` and `LevelFusion`, with `embed_tokens.weight`, `lm_head.weight`, `d2t` and
EAGLE-1's `fc` beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from dovetail_ort_export.heads.config import Eagle3Config
from dovetail_ort_export.heads.draft_head import DraftBlock
from dovetail_ort_export.heads.eagle3 import Eagle3Head
from dovetail_ort_export.heads.level_fusion import LevelFusion
from dovetail_ort_export.heads.published.settings import PublishedConfig
from dovetail_ort_export.source.checkpoint import StoredTensor
from dovetail_ort_export.source.families.family import reason_unneeded
from dovetail_ort_export.source.weight_check import check_finite
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.errors import SourceError

EMBEDDING: Final = "embed_tokens.weight"
LM_HEAD: Final = "lm_head.weight"
OFFSETS: Final = "d2t"

Shape = tuple[int, ...]

# The mask of tokens that can be drafted, which the offsets tell as well; and what speculators trains against.
_UNNEEDED: Final = ("t2d", "verifier_norm.weight", "verifier_lm_head.weight")
_READABLE: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_WHOLE: Final = (torch.int64, torch.int32)


def canonical(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors by canonical names, without those that no head needs.

    Raises:
        SourceError: two tensors have the same canonical name.
    """
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        if name in _UNNEEDED or reason_unneeded(name) is not None:
            continue
        new = f"layers.0.{name.removeprefix('midlayer.')}" if name.startswith("midlayer.") else name
        if new in found:
            raise SourceError(f"a draft head must have each tensor once, got {new} and {name}")
        found[new] = tensor
    return found


def check_tensors(stored: Mapping[str, StoredTensor], config: PublishedConfig) -> None:
    """Accept the tensors that a configuration asks for, and no others.

    Args:
        stored: tensors by canonical names.
        config: settings of the head.

    Raises:
        SourceError: tensors are missing, unexpected, or of another shape or number type; the message names some.
    """
    needed = _needed(config)
    optional = _optional(config)
    known = needed | optional
    problems = {
        "missing": sorted(needed.keys() - stored.keys()),
        "unexpected": sorted(stored.keys() - known.keys()),
        "of another shape": [
            f"{name} of {_dimensions(tensor.shape)} in place of {_dimensions(known[name])}"
            for name, tensor in stored.items()
            if name in known and tensor.shape != known[name]
        ],
    }
    findings = [f"{len(names)} {kind} ({_first(names)})" for kind, names in problems.items() if names]
    if findings:
        raise SourceError(
            f"the tensors of a draft head must be those that its configuration asks for, got {'; '.join(findings)}"
        )
    for name, tensor in stored.items():
        allowed = _WHOLE if name == OFFSETS else _READABLE
        if tensor.dtype not in allowed:
            shown = " or ".join(_type(dtype) for dtype in allowed)
            raise SourceError(f"{name} of a draft head must be in {shown}, got {_type(tensor.dtype)}")


def read_values(stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """The tensors themselves, in the number types of the files.

    Raises:
        SourceError: one has values that are not finite; the message names it.
    """
    values = {name: tensor.read() for name, tensor in stored.items()}
    for name, tensor in values.items():
        check_finite(name, tensor)
    return values


def draft_vocabulary(offsets: Tensor | None, config: PublishedConfig) -> TokenArray:
    """Ids of the tokens that a head can draft, (Vd,) int64: id i + d2t[i] for the logit i.

    Args:
        offsets: the tensor `d2t` (Vd,), or None.
        config: settings of the head.

    Raises:
        SourceError: there are no offsets though the head drafts a part of the vocabulary, or they lead out of the
            vocabulary, or two of them to the same token.
    """
    size = config.draft_vocabulary_size
    token_ids = np.arange(size, dtype=np.int64)
    if offsets is None:
        if size < config.target_vocabulary_size:
            raise SourceError(
                f"a head that drafts {size} of {config.target_vocabulary_size} tokens must say which, got no tensor d2t"
            )
        return token_ids
    token_ids += offsets.to(torch.int64).numpy()
    wrong = np.flatnonzero((token_ids < 0) | (token_ids >= config.target_vocabulary_size))
    if len(wrong):
        raise SourceError(
            f"d2t must lead to tokens below {config.target_vocabulary_size}, got {token_ids[wrong[0]]} for {wrong[0]}"
        )
    ids, counts = np.unique(token_ids, return_counts=True)
    if len(ids) < size:
        raise SourceError(f"d2t must lead to {size} different tokens, got {ids[counts > 1][0]} twice")
    return token_ids


def _needed(config: PublishedConfig) -> dict[str, Shape]:
    if config.level_fusion is None:
        return _needed_by_eagle(config)
    with torch.device("meta"):
        network = Eagle3Head(Eagle3Config(num_blocks=config.num_layers, block=config.block))
        fusion = LevelFusion(config.level_fusion)
    needed = {**_shapes(network), **_shapes(fusion)}
    has_own_width = config.block.hidden_size != config.target_hidden_size
    if has_own_width:
        needed[EMBEDDING] = (config.target_vocabulary_size, config.block.hidden_size)
    drafts_a_part = config.draft_vocabulary_size < config.target_vocabulary_size
    if drafts_a_part or (has_own_width and not config.has_tied_ends):
        needed[LM_HEAD] = (config.draft_vocabulary_size, config.block.hidden_size)
    return needed


def _needed_by_eagle(config: PublishedConfig) -> dict[str, Shape]:
    size = config.block.hidden_size
    with torch.device("meta"):
        blocks = [DraftBlock(config.block, has_input_norm=index > 0) for index in range(config.num_layers)]
    needed = {
        f"layers.{index}.{name}": shape for index, block in enumerate(blocks) for name, shape in _shapes(block).items()
    }
    needed["fc.weight"] = (size, 2 * size)
    if config.fusion_bias:
        needed["fc.bias"] = (size,)
    return needed


def _optional(config: PublishedConfig) -> dict[str, Shape]:
    optional: dict[str, Shape] = {EMBEDDING: (config.target_vocabulary_size, config.block.hidden_size)}
    if config.level_fusion is not None:
        optional[LM_HEAD] = (config.draft_vocabulary_size, config.block.hidden_size)
        optional[OFFSETS] = (config.draft_vocabulary_size,)
    return optional


def _shapes(module: nn.Module) -> dict[str, Shape]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _dimensions(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
