"""One process's share of a training: steps, measurements, checkpoints."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tqdm import tqdm

from dovetail_ort_export.target_ends import TargetEnds
from dovetail_ort_export.training.chains import ChainAcceptance, DraftLoss, Rotary, measure_acceptance, unroll
from dovetail_ort_export.training.draft_head import DraftHead, HeadConfig
from dovetail_ort_export.training.head_directory import TrainingPoint
from dovetail_ort_export.training.optimisers import Optimisers
from dovetail_ort_export.training.text_writer import Conversation
from dovetail_ort_export.training.training_options import TrainingOptions
from dovetail_ort_export.training.training_text import TextBatch, batch_indices, collate, shared_length
from dovetail_ort_export.whole_output import write_whole
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.errors import InputError

CHECKPOINT_NAME: Final = "checkpoint.pt"
MEASURED_STEPS: Final = 7
_MEASUREMENTS: Final = 20
_CHECKPOINT_SECONDS: Final = 120.0

Report = Callable[[str], None]


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


class TrainingSession:
    """A head and the target's ends that it is trained between.

    Args:
        config: of the head, whose first weights are drawn with the options' seed.
        options: of the training.
        ends: of the target.
        draft_token_ids: (Vd,) int64, the tokens that can be drafted.
        device: that it runs on.
    """

    def __init__(
        self,
        config: HeadConfig,
        options: TrainingOptions,
        ends: TargetEnds,
        draft_token_ids: TokenArray,
        device: torch.device,
    ) -> None:
        torch.manual_seed(options.seed)
        self.head = DraftHead(config).to(device)
        self._options, self._device = options, device
        self._embedding = torch.from_numpy(ends.embedding).to(device)
        self._draft_token_ids = torch.from_numpy(draft_token_ids).to(device)
        self._draft_head = torch.from_numpy(ends.head[draft_token_ids]).to(device)
        self._rotary = Rotary(torch.tensor(ends.cos, device=device), torch.tensor(ends.sin, device=device))
        self._loss = DraftLoss(head=self._draft_head, feature_weight=options.feature_weight)
        self._in_bf16 = {"auto": device.type == "cuda", "bf16": True, "fp32": False}[options.precision]

    def train(
        self,
        trained: Sequence[Conversation],
        held_out: Sequence[Conversation],
        out: Path,
        identity: dict[str, Any],
        report: Report,
    ) -> TrainingState:
        """Take all steps that are left; `out` gets a checkpoint every two minutes and when it ends early.

        Args:
            trained: the text.
            held_out: text to measure acceptance on, twenty times in all.
            out: directory of checkpoints.
            identity: JSON values that tell this training from another.
            report: is told each measurement in a line.

        Raises:
            InputError: the checkpoint is damaged or of another training, or the loss is not finite.
        """
        order, num_shared = self._order(trained), shared_length(trained)
        optimisers = Optimisers(
            self.head,
            learning_rate=self._options.learning_rate,
            num_steps=len(order),
            dtype=torch.bfloat16 if self._in_bf16 else torch.float32,
        )
        state = _load_checkpoint(out, identity, self.head, optimisers)
        measured = [collate(held_out[start : start + 8]).to(self._device) for start in range(0, len(held_out), 8)]
        every = max(1, len(order) // _MEASUREMENTS)
        saved, losses = time.perf_counter(), []
        bar = tqdm(total=len(order), initial=state.step, unit=" steps", leave=False, disable=None)
        try:
            for group in order[state.step :]:
                started = time.perf_counter()
                alone = state.step < self._options.one_step_share * len(order)
                num_steps = 1 if alone else self._options.unrolled_steps
                batch = collate([trained[index] for index in group], num_shared).to(self._device)
                loss = self._step(batch, num_steps, optimisers)
                losses.append(loss)
                state.step += 1
                state.seconds += time.perf_counter() - started
                bar.update()
                if state.step % every == 0 or state.step == len(order):
                    state.history.append(self._point(state.step, losses, measured))
                    losses = []
                    report(_describe(state.history[-1], len(order)))
                if time.perf_counter() - saved > _CHECKPOINT_SECONDS:
                    _save_checkpoint(out, identity, self.head, optimisers, state)
                    saved = time.perf_counter()
        except BaseException:
            _save_checkpoint(out, identity, self.head, optimisers, state)
            raise
        finally:
            bar.close()
        return state

    def _order(self, trained: Sequence[Conversation]) -> list[list[int]]:
        lengths = [len(item.token_ids) for item in trained]
        return [
            group
            for epoch in range(self._options.num_epochs)
            for group in batch_indices(lengths, self._options.batch_size, self._options.seed + epoch)
        ]

    def _step(self, batch: TextBatch, num_steps: int, optimisers: Optimisers) -> float:
        with self._autocast():
            embeddings = self._embedding[batch.next_token_ids]
            steps = unroll(self.head, batch.features, embeddings, self._rotary, num_steps)
            loss = self._loss(batch, steps)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise InputError(f"the loss must stay finite, got {value}; train with a smaller --learning-rate")
        optimisers.step(loss)
        return value

    def _point(self, step: int, losses: Sequence[float], measured: Sequence[TextBatch]) -> TrainingPoint:
        with self._autocast():
            acceptance: ChainAcceptance = measure_acceptance(
                self.head,
                measured,
                self._embedding,
                self._draft_head,
                self._draft_token_ids,
                self._rotary,
                MEASURED_STEPS,
            )
        return TrainingPoint(
            step=step,
            loss=round(float(np.mean(losses)), 4),
            acceptance=tuple(round(share, 4) for share in acceptance.by_depth),
            accepted_length=round(acceptance.accepted_length, 4),
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = torch.autocast(self._device.type, torch.bfloat16, enabled=self._in_bf16)
        return context


def _describe(point: TrainingPoint, num_steps: int) -> str:
    shares = " ".join(f"{share:.0%}" for share in point.acceptance)
    return (
        f"step {point.step}/{num_steps}: loss {point.loss:.3f}, accepted by depth {shares}, "
        f"{point.accepted_length:.2f} tokens a round"
    )


def _save_checkpoint(
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


def _load_checkpoint(
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
