"""One process's share of a training: steps of the optimiser, measurements, checkpoints. It writes no head."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from tqdm import tqdm

from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.heads.rotary import RotaryTables
from dovetail_ort_export.heads.unrolling import unroll
from dovetail_ort_export.options import Report
from dovetail_ort_export.training.batches import TextBatch, batch_indices, collate, shared_length
from dovetail_ort_export.training.chains import draft_loss, measure_acceptance
from dovetail_ort_export.training.checkpoint import CHECKPOINT_NAME, TrainingCheckpoint, TrainingState
from dovetail_ort_export.training.conversation import Conversation
from dovetail_ort_export.training.head_files import TrainingPoint
from dovetail_ort_export.training.optimisers import Optimisers
from dovetail_ort_export.training.options import TrainingOptions
from dovetail_ort_export.training.training_text import TrainingText
from dovetail_ort_export.writing.target_ends import TargetEnds
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.engine.devices import CUDA
from dovetail_ort_runtime.errors import InputError

_MEASURED_STEPS: Final = 7
_MEASURED_BATCH_SIZE: Final = 8
_MEASUREMENTS: Final = 20


class TrainingRun:
    """A head on a device, between the embedding and the head of its target.

    Args:
        head: the head to train; it is moved to the device.
        options: settings of the training.
        ends: the target's embedding, head and rotary tables.
        draft_token_ids: (Vd,) int64, ids of the tokens that can be drafted.
        device: where the head is trained.
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
        self._options = options
        self._device = device
        self._embedding = torch.from_numpy(ends.embedding).to(device)
        self._draft_token_ids = torch.from_numpy(draft_token_ids).to(device)
        self._draft_head = torch.from_numpy(ends.head[draft_token_ids]).to(device)
        self._rotary = RotaryTables(torch.tensor(ends.cos, device=device), torch.tensor(ends.sin, device=device))
        in_bf16 = _computes_in_bf16(options.precision, device)
        self._dtype = torch.bfloat16 if in_bf16 else torch.float32
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=in_bf16)

    def train(self, text: TrainingText, out: Path, identity: dict[str, Any], report: Report) -> TrainingState:
        """Take all remaining steps, and measure acceptance twenty times in all.

        Args:
            text: conversations to train on and to measure on.
            out: directory that gets a checkpoint every two minutes, and when the training ends early.
            identity: JSON values that distinguish this training from all others; the checkpoint of another one is
                refused.
            report: function that is called with one line of text for each measurement.

        Raises:
            InputError: the checkpoint is damaged or of another training, or the loss is not finite.
        """
        order = self._order_of_batches(text.trained)
        num_shared = shared_length(text.trained)
        optimisers = Optimisers(
            self.head, learning_rate=self._options.learning_rate, num_steps=len(order), dtype=self._dtype
        )
        checkpoint = TrainingCheckpoint(out / CHECKPOINT_NAME, identity, self.head, optimisers)
        state = checkpoint.load()
        measured = self._measured_batches(text.held_out)
        losses: list[float] = []
        bar = _progress(order, state.step)
        try:
            for indices in bar:
                started = time.perf_counter()
                batch = collate([text.trained[index] for index in indices], num_shared).to(self._device)
                losses.append(self.step(batch, self._chain_steps(state.step, len(order)), optimisers))
                state.step += 1
                state.seconds += time.perf_counter() - started
                if _is_measured(state.step, len(order)):
                    point = self._point(state.step, losses, measured)
                    losses.clear()
                    state.history.append(point)
                    report(_describe(point, len(order)))
                checkpoint.save_if_due(state)
        except BaseException:
            checkpoint.save(state)
            raise
        finally:
            bar.close()
        return state

    def _order_of_batches(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Indices of each step's conversations: every epoch has an order of its own."""
        lengths = [len(conversation.token_ids) for conversation in conversations]
        order: list[list[int]] = []
        for epoch in range(self._options.num_epochs):
            order += batch_indices(lengths, self._options.batch_size, self._options.seed + epoch)
        return order

    def _measured_batches(self, held_out: Sequence[Conversation]) -> list[TextBatch]:
        starts = range(0, len(held_out), _MEASURED_BATCH_SIZE)
        return [collate(held_out[start : start + _MEASURED_BATCH_SIZE]).to(self._device) for start in starts]

    def _chain_steps(self, step: int, num_steps: int) -> int:
        """How many steps of a chain are trained in the optimiser's step `step` of `num_steps`."""
        if step < self._options.one_step_share * num_steps:
            return 1
        return self._options.unrolled_steps

    def step(self, batch: TextBatch, chain_steps: int, optimisers: Optimisers) -> float:
        """Take one step of the optimiser, and give its loss."""
        with self._autocast:
            predicted = self._chains(batch, chain_steps)
            loss = draft_loss(batch, predicted, self._draft_head, self._options.feature_weight)
        if not loss.isfinite():
            raise InputError(f"the loss must stay finite, got {loss.item()}; train with a smaller --learning-rate")
        optimisers.step(loss)
        return loss.item()

    def _chains(self, batch: TextBatch, chain_steps: int) -> Iterator[Tensor]:
        """Predicted features (B, T, E) of each step of the chains."""
        embeddings = self._embedding[batch.next_token_ids]
        return unroll(self.head, batch.features, embeddings, self._rotary, chain_steps)

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


def _computes_in_bf16(precision: str, device: torch.device) -> bool:
    """Whether products are computed in bfloat16."""
    if precision == "auto":
        return device.type == CUDA
    return precision == "bf16"


def _is_measured(step: int, num_steps: int) -> bool:
    """Whether acceptance is measured after `step` of `num_steps` steps.

    It is measured after the last step, and before that at equal distances. A point over fewer steps would say little.
    """
    distance = max(1, num_steps // _MEASUREMENTS)
    num_left = num_steps - step
    return num_left == 0 or (step % distance == 0 and num_left >= distance)


def _progress(order: Sequence[list[int]], num_taken: int) -> tqdm[list[int]]:
    """The steps that are left, with a bar on a terminal that shows how far the training is."""
    return tqdm(
        order[num_taken:],
        initial=num_taken,
        total=len(order),
        unit=" steps",
        leave=False,
        disable=None,  # None shows the bar on a terminal only
    )


def _describe(point: TrainingPoint, num_steps: int) -> str:
    shares = " ".join(f"{share:.0%}" for share in point.acceptance)
    return (
        f"step {point.step}/{num_steps}: loss {point.loss:.3f}, accepted by depth {shares}, "
        f"{point.accepted_length:.2f} tokens a round"
    )
