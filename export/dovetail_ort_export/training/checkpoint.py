"""The file from which a stopped training continues. It knows no text and no loss."""

from __future__ import annotations

import io
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.training.head_files import TrainingPoint
from dovetail_ort_export.training.optimisers import Optimisers
from dovetail_ort_export.writing.bundle_output import write_whole
from dovetail_ort_runtime.errors import InputError, one_line

CHECKPOINT_NAME: Final = "checkpoint.pt"
SECONDS_BETWEEN_SAVES: Final = 120.0


@dataclass(slots=True)
class TrainingState:
    """The progress of a training, without its weights and optimisers.

    Attributes:
        step: number of the optimiser's steps so far.
        seconds: seconds that they took.
        history: what was measured, oldest first.
    """

    step: int = 0
    seconds: float = 0.0
    history: list[TrainingPoint] = field(default_factory=list)


class TrainingCheckpoint:
    """The file that a training is kept in while it runs.

    Args:
        path: the file.
        identity: JSON values that distinguish this training from all others.
        head: the head that is trained.
        optimisers: the optimisers of its weights.
    """

    def __init__(self, path: Path, identity: dict[str, Any], head: DraftHead, optimisers: Optimisers) -> None:
        self._path = path
        self._identity = identity
        self._head = head
        self._optimisers = optimisers
        self._last_saved = time.perf_counter()

    def save(self, state: TrainingState) -> None:
        """Write head, optimisers and `state`.

        Raises:
            OSError: the file cannot be written; a file that was there before stays.
        """
        content = {
            "identity": self._identity,
            "head": self._head.state_dict(),
            "optimisers": self._optimisers.state_dict(),
            "state": asdict(state),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)  # its own writing has no OSError for a full disk
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, buffer.getbuffer())
        self._last_saved = time.perf_counter()

    def save_if_due(self, state: TrainingState) -> None:
        """Save if the last time was more than two minutes ago."""
        if time.perf_counter() - self._last_saved > SECONDS_BETWEEN_SAVES:
            self.save(state)

    def load(self) -> TrainingState:
        """Give head and optimisers the state in the file, or start afresh if there is no file.

        Raises:
            InputError: the file is damaged, or of another training.
        """
        if not self._path.exists():
            return TrainingState()
        try:
            content = torch.load(self._path, map_location="cpu", weights_only=True)
            identity = content["identity"]
            state = content["state"]
            if identity == self._identity:
                self._head.load_state_dict(content["head"])
                self._optimisers.load_state_dict(content["optimisers"])
        except Exception as error:  # zip, pickle and torch each have exceptions of their own
            raise InputError(
                f"the checkpoint {self._path} is damaged: {one_line(error)}; delete it to start afresh"
            ) from error
        if identity != self._identity:
            raise self._of_another_training(identity)
        points = [TrainingPoint(**point) for point in state["history"]]
        return TrainingState(step=state["step"], seconds=state["seconds"], history=points)

    def _of_another_training(self, identity: dict[str, Any]) -> InputError:
        changed = sorted(name for name, value in self._identity.items() if identity.get(name) != value)
        return InputError(
            f"{self._path} must be of this training, got one with another {', '.join(changed)}; "
            "delete it to start afresh, or choose another output"
        )
