"""A trained head on disk: weights as safetensors, and what they are and how they came about as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dovetail_ort_export.heads.config import HeadConfig
from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.training.options import TrainingOptions
from dovetail_ort_export.writing.bundle_output import write_whole
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle.json_record import read_record
from dovetail_ort_runtime.bundle.manifest import TargetEntry
from dovetail_ort_runtime.errors import InputError

WEIGHTS_NAME: Final = "head.safetensors"
RECORD_NAME: Final = "head.json"
_VOCABULARY: Final = "draft_token_ids"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPoint:
    """State of a training after some steps.

    Attributes:
        step: of the optimiser.
        loss: mean since the point before.
        acceptance: on held-out text, by depth.
        accepted_length: likewise, tokens a round.
    """

    step: int
    loss: float
    acceptance: tuple[float, ...]
    accepted_length: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadRecord:
    """What `head.json` says.

    Attributes:
        target_sha256: of the target whose hidden states the head reads, `TargetEntry.weights_sha256`.
        num_conversations: that were trained on.
        num_answer_tokens: in them.
        num_overlapping: conversations that were left out for sharing a passage with an evaluation prompt, or None if
            there was none to compare with.
        training_seconds: in steps of the optimiser, all sessions together.
        machine: that the last session ran on.
        packages: versions by name.
        history: oldest first.
        start: of the head that the training went on from, or None if there was none.
    """

    target_sha256: str
    config: HeadConfig
    options: TrainingOptions
    num_conversations: int
    num_answer_tokens: int
    num_overlapping: int | None
    training_seconds: float
    machine: str
    packages: dict[str, str]
    history: tuple[TrainingPoint, ...]
    start: HeadRecord | None = None


def save_head(head: DraftHead, draft_token_ids: TokenArray, record: HeadRecord, directory: Path) -> None:
    """Write a head; half precision holds its weights to three digits and a half."""
    arrays = {name: tensor.to("cpu", torch.float16).numpy() for name, tensor in head.state_dict().items()}
    arrays[_VOCABULARY] = draft_token_ids.astype(np.int32)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(record), indent=2) + "\n"
    write_whole(directory / WEIGHTS_NAME, save(arrays))  # safetensors' own writing has no OSError for a full disk
    write_whole(directory / RECORD_NAME, text.encode())


def load_head(directory: Path, target: TargetEntry | None = None) -> tuple[DraftHead, TokenArray, HeadRecord]:
    """Read a head back, its weights in float32, and the ids of the tokens that it can draft, (Vd,).

    Raises:
        InputError: the directory is no head, or one of another target, or a file of it is damaged.
    """
    record = _read_head_record(directory / RECORD_NAME)
    if target is not None and record.target_sha256 != target.weights_sha256:
        raise InputError(
            f"the head must be of the bundle's target, got one of {record.target_sha256[:12]}… for "
            f"{(target.weights_sha256 or 'an unknown one')[:12]}…; train one with: dovetail-ort train"
        )
    try:
        arrays = load_file(directory / WEIGHTS_NAME)
        draft_token_ids = arrays.pop(_VOCABULARY).astype(np.int64)
        head = DraftHead(record.config)
        head.load_state_dict({name: torch.from_numpy(array).float() for name, array in arrays.items()})
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{directory / WEIGHTS_NAME} must be the weights of a draft head, got: {reason:.200}; train it again"
        ) from error
    return head.eval(), draft_token_ids, record


def _read_head_record(path: Path) -> HeadRecord:
    if not path.is_file():
        raise InputError(
            f"a draft head must be a directory with a {RECORD_NAME}, got {str(path.parent)!r}; "
            "make one with: dovetail-ort train BUNDLE HEAD"
        )
    try:
        return read_record(HeadRecord, json.loads(path.read_text(encoding="utf-8")), RECORD_NAME)
    except ValueError as error:
        raise InputError(f"{path} must be the record of a draft head, got: {error}; train it again") from error
