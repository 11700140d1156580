"""One process's share of a training: steps, measurements, checkpoints."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from tqdm import tqdm

from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.training.batches import TextBatch, batch_indices, collate, shared_length
from dovetail_ort_export.training.chains import Rotary, draft_loss, measure_acceptance, unroll
from dovetail_ort_export.training.head_files import TrainingPoint
from dovetail_ort_export.training.optimisers import Optimisers
from dovetail_ort_export.training.options import TrainingOptions
from dovetail_ort_export.training.text_writer import Conversation
from dovetail_ort_export.writing.bundle_output import write_whole
from dovetail_ort_export.writing.target_ends import TargetEnds
from dovetail_ort_export.writing.target_writer import Report
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.errors import InputError

CHECKPOINT_NAME: Final = "checkpoint.pt"
_MEASURED_STEPS: Final = 7
_MEASUREMENTS: Final = 20
_CHECKPOINT_SECONDS: Final = 120.0


@dataclass(slots=True)
class TrainingState:
    """What changes beside the weights and the optimisers: steps taken, the time they took, points so far."""

    step: int = 0
    seconds: float = 0.0
    history: list[TrainingPoint] = field(default_factory=list)


class TrainingSession:
    """A head, and the target's ends that it is trained between.

    Args:
        draft_token_ids: (Vd,) int64, the tokens that can be drafted.
    """

    def __init__(
        self,
        head: DraftHead,
        options: TrainingOptions,
        ends: TargetEnds,
        draft_token_ids: TokenArray,
        device: torch.device,
    ) -> None:
        self.head = head.to(device)
        self._options, self._device = options, device
        self._embedding = torch.from_numpy(ends.embedding).to(device)
        self._draft_token_ids = torch.from_numpy(draft_token_ids).to(device)
        self._draft_head = torch.from_numpy(ends.head[draft_token_ids]).to(device)
        self._rotary = Rotary(torch.tensor(ends.cos, device=device), torch.tensor(ends.sin, device=device))
        in_bf16 = {"auto": device.type == "cuda", "bf16": True, "fp32": False}[options.precision]
        self._dtype = torch.bfloat16 if in_bf16 else torch.float32
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=in_bf16)

    def train(
        self,
        trained: Sequence[Conversation],
        held_out: Sequence[Conversation],
        out: Path,
        identity: dict[str, Any],
        report: Report,
    ) -> TrainingState:
        """Take all steps that are left; `out` gets a checkpoint every two minutes and when it ends early.

        Acceptance is measured on the text `held_out`, twenty times in all. `identity`, JSON values, tells this training
        from another, whose checkpoint is refused.

        Raises:
            InputError: the checkpoint is damaged or of another training, or the loss is not finite.
        """
        options = self._options
        lengths = [len(item.token_ids) for item in trained]
        seeds = range(options.seed, options.seed + options.num_epochs)
        order = [group for seed in seeds for group in batch_indices(lengths, options.batch_size, seed)]
        num_shared = shared_length(trained)
        optimisers = Optimisers(self.head, learning_rate=options.learning_rate, num_steps=len(order), dtype=self._dtype)
        checkpoint = _Checkpoint(out / CHECKPOINT_NAME, identity, self.head, optimisers)
        state = checkpoint.load()
        measured = [collate(held_out[start : start + 8]).to(self._device) for start in range(0, len(held_out), 8)]
        every = max(1, len(order) // _MEASUREMENTS)
        saved, losses = time.perf_counter(), []
        bar = tqdm(order[state.step :], "", len(order), initial=state.step, unit=" steps", leave=False, disable=None)
        try:
            for group in bar:
                started = time.perf_counter()
                alone = state.step < options.one_step_share * len(order)
                num_steps = 1 if alone else options.unrolled_steps
                batch = collate([trained[index] for index in group], num_shared).to(self._device)
                losses.append(self._step(batch, num_steps, optimisers))
                state.step += 1
                state.seconds += time.perf_counter() - started
                left = len(order) - state.step
                if not left or (state.step % every == 0 and left >= every):
                    state.history.append(self._point(state.step, losses, measured))
                    losses = []
                    report(_describe(state.history[-1], len(order)))
                if time.perf_counter() - saved > _CHECKPOINT_SECONDS:
                    checkpoint.save(state)
                    saved = time.perf_counter()
        except BaseException:
            checkpoint.save(state)
            raise
        finally:
            bar.close()
        return state

    def _step(self, batch: TextBatch, num_steps: int, optimisers: Optimisers) -> float:
        with self._autocast:
            steps = self._chains(batch, num_steps)
            loss = draft_loss(batch, steps, self._draft_head, self._options.feature_weight)
        if not loss.isfinite():
            raise InputError(f"the loss must stay finite, got {loss.item()}; train with a smaller --learning-rate")
        optimisers.step(loss)
        return loss.item()

    def _chains(self, batch: TextBatch, num_steps: int) -> Iterator[Tensor]:
        return unroll(self.head, batch.features, self._embedding[batch.next_token_ids], self._rotary, num_steps)

    def _point(self, step: int, losses: Sequence[float], measured: Sequence[TextBatch]) -> TrainingPoint:
        chains = ((batch, self._chains(batch, _MEASURED_STEPS)) for batch in measured)
        with self._autocast:
            by_depth, accepted_length = measure_acceptance(chains, self._draft_head, self._draft_token_ids)
        return TrainingPoint(
            step=step,
            loss=round(statistics.fmean(losses), 4),
            acceptance=tuple(round(share, 4) for share in by_depth),
            accepted_length=round(accepted_length, 4),
        )


def _describe(point: TrainingPoint, num_steps: int) -> str:
    shares = " ".join(f"{share:.0%}" for share in point.acceptance)
    return (
        f"step {point.step}/{num_steps}: loss {point.loss:.3f}, accepted by depth {shares}, "
        f"{point.accepted_length:.2f} tokens a round"
    )


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What a training goes on from."""

    path: Path
    identity: dict[str, Any]
    head: DraftHead
    optimisers: Optimisers

    def save(self, state: TrainingState) -> None:
        content = {
            "identity": self.identity,
            "head": self.head.state_dict(),
            "optimisers": self.optimisers.state_dict(),
            "state": asdict(state),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)  # its own writing has no OSError for a full disk
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, buffer.getbuffer())

    def load(self) -> TrainingState:
        """Go on from the file, or start afresh if there is none."""
        if not self.path.exists():
            return TrainingState()
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            found, state = content["identity"], content["state"]
            if found == self.identity:
                self.head.load_state_dict(content["head"])
                self.optimisers.load_state_dict(content["optimisers"])
        except Exception as error:  # zip, pickle and torch each have exceptions of their own
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.path} must be a whole checkpoint, got: {reason:.200}; delete it to start afresh"
            ) from error
        if found != self.identity:
            changed = ", ".join(sorted(name for name, value in self.identity.items() if found.get(name) != value))
            raise InputError(
                f"{self.path} must be of this training, got one with another {changed}; delete it to start afresh, "
                "or choose another output"
            )
        return TrainingState(**{**state, "history": [TrainingPoint(**point) for point in state["history"]]})
