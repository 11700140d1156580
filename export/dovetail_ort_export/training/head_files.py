"""A trained head on disk: its weights as safetensors, and the record of its training as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dovetail_ort_export.heads.config import HeadConfig
from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.training.options import TrainingOptions
from dovetail_ort_export.writing.bundle_output import write_whole
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
from dovetail_ort_runtime.bundle.json_record import read_record
from dovetail_ort_runtime.errors import InputError, one_line

WEIGHTS_NAME: Final = "head.safetensors"
RECORD_NAME: Final = "head.json"
_VOCABULARY: Final = "draft_token_ids"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPoint:
    """Measurements at one point of a training.

    Attributes:
        step: number of the optimiser's steps so far.
        loss: mean loss of the steps since the last point, in nats.
        acceptance: share of held-out chains whose token was accepted if all before it were, by depth, 0 to 1.
        accepted_length: mean number of tokens a round on held-out text, the bonus token included.
    """

    step: int
    loss: float
    acceptance: tuple[float, ...]
    accepted_length: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadRecord:
    """The record of a head's training, which `head.json` holds.

    Attributes:
        target_sha256: `TargetEntry.weights_sha256` of the target whose hidden states the head reads.
        config: sizes that decide the shapes of the head's weights.
        options: settings of the training.
        num_conversations: number of conversations that the head was trained on.
        num_answer_tokens: number of tokens in the answers of these conversations.
        num_overlapping: number of conversations that were left out because they share a passage with an evaluation;
            None if there was no evaluation to compare with.
        training_seconds: seconds that all steps of the optimiser took, from all runs together.
        machine: name of the processor or GPU of the last run.
        packages: versions of the packages that took part, by name.
        history: measurements, oldest first.
        start: record of the head from which the training started, or None if there was none.
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


class TrainedHead(NamedTuple):
    """A head, and what belongs to it.

    Attributes:
        head: the network, in float32.
        draft_token_ids: (Vd,) int64, ids of the tokens that it can draft, ascending.
        record: how it was trained.
    """

    head: DraftHead
    draft_token_ids: TokenArray
    record: HeadRecord


def save_head(head: DraftHead, draft_token_ids: TokenArray, record: HeadRecord, directory: Path) -> None:
    """Write a head into a directory, which is made if it is missing.

    The weights are written in half precision, which keeps about three decimal digits.

    Args:
        head: the network.
        draft_token_ids: (Vd,) int64, ids of the tokens that it can draft.
        record: how it was trained.
        directory: directory for the files.

    Raises:
        OSError: a file cannot be written; a head that was there stays.
    """
    arrays = {name: tensor.to("cpu", torch.float16).numpy() for name, tensor in head.state_dict().items()}
    arrays[_VOCABULARY] = draft_token_ids.astype(np.int32)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(record), indent=2) + "\n"
    write_whole(directory / WEIGHTS_NAME, save(arrays))  # safetensors' own writing has no OSError for a full disk
    write_whole(directory / RECORD_NAME, text.encode())


def load_head(directory: Path, target: TargetEntry | None = None) -> TrainedHead:
    """Read a head back.

    Args:
        directory: directory of the head.
        target: manifest's entry of the target that the head must belong to; None for any target.

    Raises:
        InputError: the directory is no head, or one of another target, or a file of it is damaged.
    """
    record = _read_head_record(directory / RECORD_NAME)
    if target is not None and record.target_sha256 != target.weights_sha256:
        wanted = target.weights_sha256 or "an unknown one"
        raise InputError(
            f"the head must be of the bundle's target, got one of {record.target_sha256[:12]}… for "
            f"{wanted[:12]}…; train one with: dovetail-ort train"
        )
    path = directory / WEIGHTS_NAME
    try:
        arrays = load_file(path)
        draft_token_ids = arrays.pop(_VOCABULARY).astype(np.int64)
        head = DraftHead(record.config)
        head.load_state_dict({name: torch.from_numpy(array).float() for name, array in arrays.items()})
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path} does not hold the weights of a draft head: {one_line(error)}; train it again"
        ) from error
    return TrainedHead(head.eval(), draft_token_ids, record)


def _read_head_record(path: Path) -> HeadRecord:
    if not path.is_file():
        raise InputError(
            f"a draft head must be a directory with a {RECORD_NAME}, got {str(path.parent)!r}; "
            "make one with: dovetail-ort train BUNDLE HEAD"
        )
    try:
        return read_record(HeadRecord, json.loads(path.read_text(encoding="utf-8")), RECORD_NAME)
    except ValueError as error:
        raise InputError(f"{path} is not the record of a draft head: {error}; train it again") from error
