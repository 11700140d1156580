"""The training plan: write text, read it, train, measure, save."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch
from matplotlib.figure import Figure

from dovetail_ort_export.heads.config import HeadConfig
from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.source import SourceOptions, load_source
from dovetail_ort_export.source.weights import Weights
from dovetail_ort_export.training.batches import draft_vocabulary, passages, split_held_out
from dovetail_ort_export.training.head_files import HeadRecord, load_head, save_head
from dovetail_ort_export.training.options import TrainingOptions, TrainingPrompts
from dovetail_ort_export.training.session import CHECKPOINT_NAME, TrainingSession
from dovetail_ort_export.training.slotted_target import TorchTarget
from dovetail_ort_export.training.text_shards import OpenTarget, write_text
from dovetail_ort_export.training.text_writer import Conversation
from dovetail_ort_export.writing.bundle_output import write_figure
from dovetail_ort_export.writing.target_ends import TargetEnds, read_target_ends
from dovetail_ort_export.writing.target_writer import Report
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.manifest import NATIVE, Manifest, TargetEntry
from dovetail_ort_runtime.errors import InputError, UnavailableError
from dovetail_ort_runtime.machine.onnx_runtime import onnxruntime_distributions
from dovetail_ort_runtime.machine.processor import processor_name, usable_cores

_PACKAGES: Final = ("torch", "transformers", "dovetail-ort")


def train_head(
    bundle_path: str | Path,
    out: Path,
    options: TrainingOptions,
    *,
    text: Path | None = None,
    source: str | None = None,
    start: Path | None = None,
    prompts: TrainingPrompts | None = None,
    evaluation_texts: Sequence[str] | None = None,
    report: Report = lambda _: None,
) -> HeadRecord:
    """Train a draft head for a bundle's target and return its record; called again when it was stopped, it goes on.

    Args:
        bundle_path: the bundle.
        out: directory of the head.
        options: of the training.
        text: directory of the text, `text` below `out` if None; several trainings can share one.
        source: the model that the bundle was exported from: torch then writes the text, on the training's device,
            instead of the bundle's graph on the CPU.
        start: directory of a trained head to go on from, which keeps its shape and the tokens that it drafts.
        prompts: the user's, for the target to answer beside its own.
        evaluation_texts: nothing that shares a passage with these is trained on; None if there are none to compare.
        report: is told each step in a line.

    Raises:
        InputError: an option is out of bounds, a file is damaged, or the output is of another training.
    """
    bundle = Bundle(bundle_path)
    entry = bundle.manifest.target
    target_sha256 = _trainable(entry)
    if started := start and load_head(start, entry):
        options = replace(options, fusion=started[0].config.fusion, num_blocks=started[0].config.num_blocks)
    device = _device(options.device)
    torch.set_num_threads(options.threads or usable_cores())
    report("writing text")
    open_target = None if source is None else _open_source(source, bundle.manifest, device)
    shards = write_text(bundle, text or out / "text", options, prompts or TrainingPrompts(), open_target, report)
    report("reading text")
    conversations = _enough(shards.conversations(), options.num_answer_tokens)
    kept = conversations if evaluation_texts is None else _without_overlap(bundle, conversations, evaluation_texts)
    trained, held_out = split_held_out(kept)
    ends = read_target_ends(bundle)
    head, draft_token_ids, before = started or _drawn(bundle, ends, options, trained)
    session = TrainingSession(head, options, ends, draft_token_ids, device)
    num_tokens = sum(item.answer_length for item in trained)
    identity = {
        **asdict(options),
        "threads": None,
        "device": None,
        "target": target_sha256,
        "conversations": len(trained),
        "answer_tokens": num_tokens,
        "start": before and asdict(before),
    }
    report(f"training on {num_tokens} answer tokens of {len(trained)} conversations")
    state = session.train(trained, held_out, out, identity, report)
    record = HeadRecord(
        target_sha256=target_sha256,
        config=session.head.config,
        options=options,
        num_conversations=len(trained),
        num_answer_tokens=num_tokens,
        num_overlapping=None if evaluation_texts is None else len(conversations) - len(kept),
        training_seconds=round(state.seconds, 1),
        machine=processor_name() if device.type == "cpu" else torch.cuda.get_device_name(device),
        packages={name: importlib.metadata.version(name) for name in _PACKAGES} | onnxruntime_distributions(),
        history=tuple(state.history),
        start=before,
    )
    save_head(session.head, draft_token_ids, record, out)
    draw_curves(record, out / "curves.png")
    (out / CHECKPOINT_NAME).unlink(missing_ok=True)
    return record


def _trainable(entry: TargetEntry) -> str:
    """Hash of the target's weights, if a head can be trained for it."""
    if entry.weights_sha256 is None or entry.intermediate_size is None:
        raise InputError("the bundle must name the weights it was made from, got an old one; export the model again")
    if entry.front_graph is not None and entry.format != NATIVE:
        raise InputError("the target must be in one piece, got a cut one; export it without --gpu-layers")
    return entry.weights_sha256


def _open_source(source: str, manifest: Manifest, device: torch.device) -> OpenTarget:
    model = load_source(source, SourceOptions.of_bundle(manifest)).model
    target_sha256 = str(manifest.target.weights_sha256)
    if (found := Weights(model, max_context=1).sha256()) != target_sha256:
        raise InputError(
            f"the source must be the model that the bundle was exported from, {target_sha256[:12]}…, "
            f"got {found[:12]}…; name that one, or none"
        )
    return partial(TorchTarget, model, device=device)


def _drawn(
    bundle: Bundle, ends: TargetEnds, options: TrainingOptions, trained: Sequence[Conversation]
) -> tuple[DraftHead, TokenArray, None]:
    """A head whose weights are drawn with the options' seed."""
    entry = bundle.manifest.target
    assert entry.intermediate_size is not None
    draft_token_ids = draft_vocabulary(
        [item.token_ids[item.prompt_length :] for item in trained],
        bundle.manifest.generation.eos_token_ids,
        size=options.draft_vocabulary_size,
        total=entry.vocabulary_size,
    )
    torch.manual_seed(options.seed)
    config = HeadConfig(
        fusion=options.fusion,
        num_blocks=options.num_blocks,
        hidden_size=entry.hidden_size,
        num_heads=entry.num_heads,
        num_kv_heads=entry.num_kv_heads,
        head_size=entry.head_size,
        intermediate_size=entry.intermediate_size,
        norm_epsilon=ends.norm_epsilon,
    )
    return DraftHead(config), draft_token_ids, None


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("training on cuda must have a GPU that torch can use, got none; train with --device cpu")
    return torch.device(name)


def _enough(conversations: Iterator[Conversation], num_answer_tokens: int) -> list[Conversation]:
    """The first conversations, until their answers have so many tokens."""
    found: list[Conversation] = []
    while num_answer_tokens > 0 and (conversation := next(conversations, None)):
        found.append(conversation)
        num_answer_tokens -= conversation.answer_length
    return found


def _without_overlap(
    bundle: Bundle, conversations: Sequence[Conversation], evaluation_texts: Sequence[str]
) -> list[Conversation]:
    decode = bundle.tokenizer().decode
    forbidden = {passage for text in evaluation_texts for passage in passages(text)}
    return [item for item in conversations if forbidden.isdisjoint(passages(decode(item.token_ids.tolist())))]


def draw_curves(record: HeadRecord, path: Path) -> None:
    """Write a PNG: the loss on the left, acceptance by depth on held-out text on the right."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [point.step for point in record.history]
    left.plot(steps, [point.loss for point in record.history])
    left.set(title="Training loss", xlabel="step", ylabel="nats a token")
    for depth, shares in enumerate(zip(*(point.acceptance for point in record.history), strict=True), 1):
        right.plot(steps, shares, label=f"draft token {depth}")
    right.set(title="Accepted, if all before were", xlabel="step", ylim=(0, 1))
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    write_figure(figure, path)
