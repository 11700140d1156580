"""The training plan: write text, read it, train, measure, save."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tqdm import tqdm

from dovetail_ort_export.source import load_source
from dovetail_ort_export.target_ends import TargetEnds, read_target_ends
from dovetail_ort_export.training.chain_acceptance import ChainAcceptance, measure_acceptance
from dovetail_ort_export.training.curves import draw_curves
from dovetail_ort_export.training.draft_head import DraftHead
from dovetail_ort_export.training.draft_loss import DraftLoss
from dovetail_ort_export.training.draft_vocabulary import draft_vocabulary
from dovetail_ort_export.training.head_config import HeadConfig
from dovetail_ort_export.training.head_directory import HeadRecord, TrainingPoint, save_head
from dovetail_ort_export.training.optimisers import Optimisers
from dovetail_ort_export.training.overlap import Overlap
from dovetail_ort_export.training.text_batches import TextBatch, batch_indices, collate, split_held_out
from dovetail_ort_export.training.text_writer import Conversation
from dovetail_ort_export.training.torch_target import TorchTarget
from dovetail_ort_export.training.training_options import TrainingOptions
from dovetail_ort_export.training.training_state import (
    CHECKPOINT_NAME,
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)
from dovetail_ort_export.training.unrolling import Rotary, unroll
from dovetail_ort_export.training.written_text import OpenTarget, write_text
from dovetail_ort_export.weights import Weights
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.chat_template import Message
from dovetail_ort_runtime.environment import processor_name, usable_cores
from dovetail_ort_runtime.errors import InputError, UnavailableError
from dovetail_ort_runtime.tokenizer import Tokenizer

MEASURED_STEPS: Final = 7
_MEASUREMENTS: Final = 20
_CHECKPOINT_SECONDS: Final = 120.0
_PACKAGES: Final = ("torch", "transformers", "onnxruntime", "dovetail-ort")

Report = Callable[[str], None]


def train_head(
    bundle_path: str | Path,
    out: Path,
    options: TrainingOptions | None = None,
    *,
    text: Path | None = None,
    source: str | None = None,
    prompts: Sequence[Sequence[Message]] = (),
    evaluation_texts: Sequence[str] | None = None,
    report: Report = lambda _: None,
) -> HeadRecord:
    """Train a draft head for a bundle's target; called again after an interruption, it goes on.

    Args:
        bundle_path: the bundle.
        out: directory of the head.
        options: the defaults if None.
        text: directory of the text, `text` below `out` if None; several trainings can share one.
        source: the model that the bundle was exported from: torch then writes the text, on the training's device,
            instead of the bundle's graph on the CPU.
        prompts: conversations of the user's for the target to answer.
        evaluation_texts: nothing that shares a passage with these is trained on; None if there are none to compare.
        report: is told each step in a line.

    Returns:
        The record that is saved with the head.

    Raises:
        InputError: an option is out of bounds, a file is damaged, or the output is of another training.
    """
    options = options or TrainingOptions()
    bundle = Bundle(bundle_path)
    target_sha256 = bundle.manifest.target.weights_sha256
    if target_sha256 is None or bundle.manifest.target.intermediate_size is None:
        raise InputError("the bundle must name the weights it was made from, got an old one; export the model again")
    device = _device(options.device)
    torch.set_num_threads(options.threads or usable_cores())
    report("writing text")
    open_target = None if source is None else _open_source(source, target_sha256, device)
    shards = write_text(bundle, text or out / "text", options, prompts, open_target)
    report("reading text")
    conversations = _enough(shards.conversations(), options.num_answer_tokens)
    conversations, num_overlapping = _without_overlap(bundle, conversations, evaluation_texts)
    trained, held_out = split_held_out(conversations)
    answers = [item.token_ids[item.prompt_length :] for item in trained]
    draft_token_ids = draft_vocabulary(
        answers,
        bundle.manifest.generation.eos_token_ids,
        size=options.draft_vocabulary_size,
        total=bundle.manifest.target.vocabulary_size,
    )
    session = _Session(_head_config(bundle, options), options, read_target_ends(bundle), draft_token_ids, device)
    num_tokens = sum(map(len, answers))
    identity = {
        **dataclasses.asdict(options),
        "threads": None,
        "device": None,
        "target": target_sha256,
        "conversations": len(trained),
        "answer_tokens": num_tokens,
    }
    report(f"training on {num_tokens} answer tokens of {len(trained)} conversations")
    state = session.train(trained, held_out, out, identity, report)
    record = HeadRecord(
        target_sha256=target_sha256,
        config=session.head.config,
        options=options,
        num_conversations=len(trained),
        num_answer_tokens=num_tokens,
        num_overlapping=num_overlapping,
        training_seconds=round(state.seconds, 1),
        machine=processor_name() if device.type == "cpu" else torch.cuda.get_device_name(device),
        packages={name: importlib.metadata.version(name) for name in _PACKAGES},
        history=tuple(state.history),
    )
    save_head(session.head, draft_token_ids, record, out)
    draw_curves(record, out / "curves.png")
    (out / CHECKPOINT_NAME).unlink(missing_ok=True)
    return record


class _Session:
    """One process's share of a training."""

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

    def train(
        self,
        trained: Sequence[Conversation],
        held_out: Sequence[Conversation],
        out: Path,
        identity: dict[str, Any],
        report: Report,
    ) -> TrainingState:
        """Take all steps that are left; `out` gets a checkpoint every two minutes and when it ends early."""
        order = self._order(trained)
        optimisers = Optimisers(self.head, learning_rate=self._options.learning_rate, num_steps=len(order))
        state = load_checkpoint(out, identity, self.head, optimisers)
        measured = [collate(held_out[start : start + 8]).to(self._device) for start in range(0, len(held_out), 8)]
        every = max(1, len(order) // _MEASUREMENTS)
        saved, losses = time.perf_counter(), []
        bar = tqdm(total=len(order), initial=state.step, unit=" steps", leave=False, disable=None)
        try:
            for group in order[state.step :]:
                started = time.perf_counter()
                loss = self._step(collate([trained[index] for index in group]).to(self._device), optimisers)
                losses.append(loss)
                state.step += 1
                state.seconds += time.perf_counter() - started
                bar.update()
                if state.step % every == 0 or state.step == len(order):
                    state.history.append(self._point(state.step, losses, measured))
                    losses = []
                    report(_describe(state.history[-1], len(order)))
                if time.perf_counter() - saved > _CHECKPOINT_SECONDS:
                    save_checkpoint(out, identity, self.head, optimisers, state)
                    saved = time.perf_counter()
        except BaseException:
            save_checkpoint(out, identity, self.head, optimisers, state)
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

    def _step(self, batch: TextBatch, optimisers: Optimisers) -> float:
        with self._autocast():
            embeddings = self._embedding[batch.next_token_ids]
            steps = unroll(self.head, batch.features, embeddings, self._rotary, self._options.unrolled_steps)
            loss = self._loss(batch, steps)
        optimisers.step(loss)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise InputError(f"the loss must stay finite, got {value}; train with a smaller --learning-rate")
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
        chosen = {"auto": self._device.type == "cuda", "bf16": True, "fp32": False}[self._options.precision]
        context: AbstractContextManager[Any] = torch.autocast(self._device.type, torch.bfloat16, enabled=chosen)
        return context


def _open_source(source: str, target_sha256: str, device: torch.device) -> OpenTarget:
    model = load_source(source).model
    if (found := Weights(model, max_context=1).sha256()) != target_sha256:
        raise InputError(
            f"the source must be the model that the bundle was exported from, {target_sha256[:12]}…, "
            f"got {found[:12]}…; name that one, or none"
        )
    return lambda num_slots, capacity: TorchTarget(model, num_slots=num_slots, capacity=capacity, device=device)


def _head_config(bundle: Bundle, options: TrainingOptions) -> HeadConfig:
    entry = bundle.manifest.target
    assert entry.intermediate_size is not None
    return HeadConfig(
        fusion=options.fusion,
        num_blocks=options.num_blocks,
        hidden_size=entry.hidden_size,
        num_heads=entry.num_heads,
        num_kv_heads=entry.num_kv_heads,
        head_size=entry.head_size,
        intermediate_size=entry.intermediate_size,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("training on cuda must have a GPU that torch can use, got none; train with --device cpu")
    return torch.device(name)


def _enough(conversations: Iterator[Conversation], num_answer_tokens: int) -> list[Conversation]:
    """The first conversations, until their answers have so many tokens."""
    found: list[Conversation] = []
    for conversation in conversations:
        found.append(conversation)
        num_answer_tokens -= conversation.answer_length
        if num_answer_tokens <= 0:
            break
    return found


def _without_overlap(
    bundle: Bundle, conversations: list[Conversation], evaluation_texts: Sequence[str] | None
) -> tuple[list[Conversation], int | None]:
    if evaluation_texts is None:
        return conversations, None
    tokenizer = Tokenizer(bundle.path(bundle.manifest.tokenizer.file))
    overlap = Overlap(evaluation_texts)
    kept = [item for item in conversations if not overlap.shares_a_passage(tokenizer.decode(item.token_ids.tolist()))]
    return kept, len(conversations) - len(kept)


def _describe(point: TrainingPoint, num_steps: int) -> str:
    shares = " ".join(f"{share:.0%}" for share in point.acceptance)
    return (
        f"step {point.step}/{num_steps}: loss {point.loss:.3f}, accepted by depth {shares}, "
        f"{point.accepted_length:.2f} tokens a round"
    )
