"""The training plan: prepare the text, prepare the head, train, save."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from dovetail_ort_export.heads.config import HeadConfig
from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.options import Report
from dovetail_ort_export.source import SourceOptions, load_source
from dovetail_ort_export.source.weights import Weights
from dovetail_ort_export.training.batched_target import BatchedTarget, TorchTarget
from dovetail_ort_export.training.checkpoint import CHECKPOINT_NAME
from dovetail_ort_export.training.head_files import HeadRecord, TrainedHead, load_head, save_head
from dovetail_ort_export.training.options import TrainingInputs, TrainingOptions
from dovetail_ort_export.training.run import TrainingRun
from dovetail_ort_export.training.text_plan import OpenTarget, write_text
from dovetail_ort_export.training.training_plot import draw_training
from dovetail_ort_export.training.training_text import TrainingText, choose_text, draft_vocabulary
from dovetail_ort_export.writing.target_ends import TargetEnds, read_target_ends
from dovetail_ort_runtime.arrays import TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.formats import NATIVE
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
from dovetail_ort_runtime.bundle.manifest import Manifest
from dovetail_ort_runtime.engine.devices import AUTO, CPU, CUDA
from dovetail_ort_runtime.errors import InputError, UnavailableError
from dovetail_ort_runtime.machine.onnx_runtime import onnxruntime_distributions
from dovetail_ort_runtime.machine.processor import processor_name, usable_cores

_PACKAGES: Final = ("torch", "transformers", "dovetail-ort")
_PLOT_NAME: Final = "curves.png"


def train_head(
    bundle_path: str | Path,
    out: Path,
    options: TrainingOptions,
    inputs: TrainingInputs | None = None,
    report: Report = lambda _: None,
) -> HeadRecord:
    """Train a draft head for a bundle's target. Called again with the same arguments, it continues a stopped training.

    Args:
        bundle_path: directory of the bundle, which is only read.
        out: directory for the head, its record, and a checkpoint while the training runs.
        options: settings of the training.
        inputs: further inputs, such as prompts or a head to start from; none if None.
        report: function that is called with one line of text for each step of the plan and each measurement.

    Returns:
        The record that is written beside the head's weights.

    Raises:
        InputError: the bundle's target cannot have a head, a file is damaged, the source is another model, the output
            is of another training, or the loss is not finite.
        UnavailableError: the device does not exist, or torch cannot use it.
    """
    inputs = inputs or TrainingInputs()
    plan = _plan(Bundle(bundle_path), options, inputs)
    torch.set_num_threads(options.threads or usable_cores())
    text = _prepare_text(plan, inputs, out, report)
    ends = read_target_ends(plan.bundle)
    head, draft_token_ids = _prepare_head(plan, ends, text)
    run = TrainingRun(head, plan.options, ends, draft_token_ids, plan.device)
    report(f"training on {text.num_answer_tokens} answer tokens of {len(text.trained)} conversations")
    state = run.train(text, out, _identity(plan, text), report)
    record = HeadRecord(
        target_sha256=plan.target_sha256,
        config=head.config,
        options=plan.options,
        num_conversations=len(text.trained),
        num_answer_tokens=text.num_answer_tokens,
        num_overlapping=text.num_overlapping,
        training_seconds=round(state.seconds, 1),
        machine=_machine(plan.device),
        packages=_package_versions(),
        history=tuple(state.history),
        start=plan.start_record,
    )
    _save(head, draft_token_ids, record, out)
    return record


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Plan:
    """Everything that is fixed before a training begins.

    Attributes:
        bundle: the bundle whose target gets a head.
        target_sha256: hash of the target's weights.
        options: settings of the training, with the sizes of the head from which it starts.
        start: head from which the training starts, or None.
        device: where the head is trained.
    """

    bundle: Bundle
    target_sha256: str
    options: TrainingOptions
    start: TrainedHead | None
    device: torch.device

    @property
    def start_record(self) -> HeadRecord | None:
        """Record of the head from which the training starts, or None."""
        return None if self.start is None else self.start.record


def _plan(bundle: Bundle, options: TrainingOptions, inputs: TrainingInputs) -> _Plan:
    target = bundle.manifest.target
    target_sha256 = _trainable(target)
    start = None
    if inputs.start is not None:
        start = load_head(inputs.start, target)
        config = start.record.config
        options = replace(options, fusion=config.fusion, num_blocks=config.num_blocks)
    return _Plan(
        bundle=bundle, target_sha256=target_sha256, options=options, start=start, device=_device(options.device)
    )


def _trainable(target: TargetEntry) -> str:
    """Hash of the target's weights, if a head can be trained for it."""
    if target.weights_sha256 is None or target.intermediate_size is None:
        raise InputError("this bundle is too old to name the weights it was made from; export the model again")
    if target.front_graph is not None and target.format != NATIVE:
        raise InputError(
            "this bundle has its target in two pieces, which no head can be trained for; export it without --gpu-layers"
        )
    return target.weights_sha256


def _device(name: str) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if name == AUTO:
        return torch.device(CUDA if has_cuda else CPU)
    if name == CUDA and not has_cuda:
        raise UnavailableError("training on cuda must have a GPU that torch can use, got none; train with --device cpu")
    return torch.device(name)


def _prepare_text(plan: _Plan, inputs: TrainingInputs, out: Path, report: Report) -> TrainingText:
    """Write text until there is enough, and choose from it."""
    report("writing text")
    directory = inputs.text or out / "text"
    open_target = None if inputs.source is None else _open_source(inputs.source, plan.bundle.manifest, plan.device)
    shards = write_text(plan.bundle, directory, plan.options, inputs.prompts, open_target, report)
    report("reading text")
    return choose_text(
        shards.conversations(),
        plan.options.num_answer_tokens,
        inputs.evaluation_texts,
        plan.bundle.tokenizer().decode,
    )


def _open_source(source: str, manifest: Manifest, device: torch.device) -> OpenTarget:
    """The model that a bundle was exported from, as a target that writes text."""
    model = load_source(source, SourceOptions.of_bundle(manifest)).model
    wanted = str(manifest.target.weights_sha256)
    found = Weights(model, max_context=1).sha256()
    if found != wanted:
        raise InputError(
            f"the source must be the model that the bundle was exported from, {wanted[:12]}…, "
            f"got {found[:12]}…; name that one, or none"
        )

    def open_target(*, num_sequences: int, capacity: int) -> BatchedTarget:
        return TorchTarget(model, num_sequences=num_sequences, capacity=capacity, device=device)

    return open_target


def _prepare_head(plan: _Plan, ends: TargetEnds, text: TrainingText) -> tuple[DraftHead, TokenArray]:
    """The head from which the training starts, or a new one, and the ids (Vd,) of the tokens that it can draft."""
    if plan.start is not None:
        return plan.start.head, plan.start.draft_token_ids
    draft_token_ids = draft_vocabulary(
        [conversation.answer for conversation in text.trained],
        plan.bundle.manifest.generation.eos_token_ids,
        size=plan.options.draft_vocabulary_size,
        total=plan.bundle.manifest.target.vocabulary_size,
    )
    return _new_head(plan, ends), draft_token_ids


def _new_head(plan: _Plan, ends: TargetEnds) -> DraftHead:
    """A head whose weights are drawn with the seed of the options."""
    config = HeadConfig.for_target(
        plan.bundle.manifest.target,
        fusion=plan.options.fusion,
        num_blocks=plan.options.num_blocks,
        norm_epsilon=ends.norm_epsilon,
    )
    torch.manual_seed(plan.options.seed)
    return DraftHead(config)


def _identity(plan: _Plan, text: TrainingText) -> dict[str, Any]:
    """JSON values that distinguish this training from all others: everything that the trained weights depend on."""
    start = plan.start_record
    return {
        **asdict(plan.options),
        "threads": None,
        "device": None,
        "target": plan.target_sha256,
        "conversations": len(text.trained),
        "answer_tokens": text.num_answer_tokens,
        "start": None if start is None else asdict(start),
    }


def _machine(device: torch.device) -> str:
    """Name of the processor or of the GPU."""
    return processor_name() if device.type == CPU else torch.cuda.get_device_name(device)


def _package_versions() -> dict[str, str]:
    """Versions of the packages that take part in a training."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return versions | onnxruntime_distributions()


def _save(head: DraftHead, draft_token_ids: TokenArray, record: HeadRecord, out: Path) -> None:
    """Write head, record and plot; the checkpoint is not needed any more."""
    save_head(head, draft_token_ids, record, out)
    draw_training(record, out / _PLOT_NAME)
    (out / CHECKPOINT_NAME).unlink(missing_ok=True)
