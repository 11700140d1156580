"""A training on disk, so that it can go on where it was stopped."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from dovetail_ort_export.training.draft_head import DraftHead
from dovetail_ort_export.training.head_directory import TrainingPoint
from dovetail_ort_export.training.optimisers import Optimisers
from dovetail_ort_export.whole_file import write_whole
from dovetail_ort_runtime.errors import InputError

CHECKPOINT_NAME: Final = "checkpoint.pt"


@dataclass(slots=True)
class TrainingState:
    """What changes during a training, beside the weights and the optimisers.

    Attributes:
        step: steps taken.
        seconds: time they took.
        history: points so far.
    """

    step: int = 0
    seconds: float = 0.0
    history: list[TrainingPoint] = field(default_factory=list)


def save_checkpoint(
    directory: Path, identity: dict[str, Any], head: DraftHead, optimisers: Optimisers, state: TrainingState
) -> None:
    """Write the checkpoint of a training whose settings and text are `identity`, JSON values."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "identity": identity,
        "head": head.state_dict(),
        "optimisers": optimisers.state_dict(),
        "state": asdict(state),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)  # its own writing has no OSError for a full disk
    write_whole(directory / CHECKPOINT_NAME, buffer.getbuffer())


def load_checkpoint(
    directory: Path, identity: dict[str, Any], head: DraftHead, optimisers: Optimisers
) -> TrainingState:
    """Go on from the checkpoint in `directory`, or start afresh if there is none.

    Raises:
        InputError: the checkpoint is damaged, or of another training.
    """
    path = directory / CHECKPOINT_NAME
    if not path.exists():
        return TrainingState()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found, state = content["identity"], content["state"]
        if found == identity:
            head.load_state_dict(content["head"])
            optimisers.load_state_dict(content["optimisers"])
    except Exception as error:  # zip, pickle and torch each have exceptions of their own
        reason = " ".join(str(error).split())
        raise InputError(f"{path} must be a whole checkpoint, got: {reason:.200}; delete it to start afresh") from error
    if found != identity:
        changed = ", ".join(sorted(name for name in identity if found.get(name) != identity[name]))
        raise InputError(
            f"{path} must be of this training, got one with another {changed}; delete it to start afresh, "
            "or choose another output"
        )
    history = [TrainingPoint(**{**point, "acceptance": tuple(point["acceptance"])}) for point in state["history"]]
    return TrainingState(step=state["step"], seconds=state["seconds"], history=history)
