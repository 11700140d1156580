"""`dovetail-ort tune`: measure times of target and drafter, so that each round drafts what pays on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from dovetail_ort.cli.arguments import (
    add_bundle,
    add_draft_bundle,
    add_json,
    add_threads,
    add_verification,
    load_options,
)
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.loading.load_options import DRAFTERS, NO_DRAFTER
from dovetail_ort_runtime.model import Model
from dovetail_ort_runtime.planning.time_curves import TimeCurves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The times are stored for this bundle, processor, operators, ONNX Runtime and number of threads. generate,\n"
        "chat, serve and bench use them from then on. Without stored times they make a short measurement first.\n\n"
        "example:\n  dovetail-ort tune smollm2"
    )
    add_bundle(parser)
    parser.add_argument(
        "--drafter",
        choices=[name for name in DRAFTERS if name != NO_DRAFTER],
        default=DRAFTERS[0],
        help="the drafter whose times are measured, as in generate (default: %(default)s)",
    )
    add_draft_bundle(parser)
    add_verification(parser)
    add_threads(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    print("measuring the times of forwards", file=sys.stderr)
    options = load_options(arguments, tune=True)
    curves = Model(Bundle(arguments.bundle, arguments.verify), options).curves
    assert curves is not None, "every drafter but none has a planner"
    print(json.dumps(dataclasses.asdict(curves), indent=2) if arguments.json else _table(curves))
    return 0


def _table(curves: TimeCurves) -> str:
    contexts = "".join(f"{f'after {context}':>14}" for context in curves.contexts)
    lines = [f"{'rows of a forward':<18}{contexts}"]
    for place, rows in enumerate(curves.verify_rows):
        cells = "".join(f"{times[place]:>11.2f} ms" for times in curves.verify_ms)
        lines.append(f"{rows:>8}{'':10}{cells}")
    if curves.catch_up_rows:
        first = zip(curves.catch_up_rows, curves.catch_up_ms, strict=True)
        unread = ", ".join(f"{ms:.2f} ms after {rows} unread" for rows, ms in first)
        further = f"each further {curves.step_ms:.2f} ms"
        if curves.branch_ms:
            further += f", each beside it in a tree {curves.branch_ms:.2f} ms"
        lines += ["", f"drafting          first token {unread}; {further}"]
    return "\n".join(lines)
