"""`dovetail-ort graph apply`: a new bundle whose graph other passes went over."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail_ort.cli.bundle_lines import measurement_lines, page
from dovetail_ort.cli.export_extra import import_from_export
from dovetail_ort.commands import add_json
from dovetail_ort.commands.graph import add_bundle

if TYPE_CHECKING:
    from dovetail_ort_export.laboratory.apply import AppliedPasses


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  dovetail-ort graph apply smollm2 --pass my_package:SoftCapLogits smollm2-capped"
    add_bundle(parser)
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the new bundle")
    parser.add_argument(
        "--pass",
        dest="passes",
        action="append",
        required=True,
        metavar="NAME",
        help="a name that `dovetail-ort graph passes` lists, or module:Class; once for each, in order",
    )
    parser.add_argument("--force", action="store_true", help="replace the bundle that stands at OUT")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    laboratory = import_from_export("passes", "laboratory.apply")
    applied: AppliedPasses = laboratory.apply_passes(
        arguments.bundle, arguments.passes, arguments.out, graph=arguments.graph, force=arguments.force
    )
    print(json.dumps(_record(applied), indent=2) if arguments.json else _summary(applied))
    if not applied.keeps_parity:
        print(
            f"WARNING: {applied.directory} no longer says what {arguments.bundle} says"
            + ("" if applied.draft_agreement is not None else ", so it is not called exact"),
            file=sys.stderr,
        )
    elif not applied.manifest.target.exact:
        print(f"WARNING: {applied.directory} is NOT exact: rows depend on the rows beside them", file=sys.stderr)
    return 0


def _summary(applied: AppliedPasses) -> str:
    lines = {"bundle": str(applied.directory), **measurement_lines(applied.manifest)}
    if applied.draft_agreement is not None:
        lines["drafter"] = f"{applied.draft_agreement:.1%} same first candidate as the drafter before"
    return page(lines)


def _record(applied: AppliedPasses) -> dict[str, Any]:
    return {
        "directory": str(applied.directory),
        "keeps_parity": applied.keeps_parity,
        "draft_agreement": applied.draft_agreement,
        "target": dataclasses.asdict(applied.manifest.target),
        "measurements": dataclasses.asdict(applied.manifest.measurements),
    }
