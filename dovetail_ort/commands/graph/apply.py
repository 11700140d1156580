"""`dovetail-ort graph apply`: a new bundle with a graph that more graph passes have changed."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail_ort.cli.arguments import add_bundle, add_graph_choice, add_json
from dovetail_ort.cli.bundle_lines import measurement_lines, page
from dovetail_ort.cli.export_extra import export_packages
from dovetail_ort.cli.terminal import tell

if TYPE_CHECKING:
    from dovetail_ort_export.laboratory.apply import AppliedPasses


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  dovetail-ort graph apply smollm2 --pass my_package:SoftCapLogits smollm2-capped"
    add_bundle(parser)
    add_graph_choice(parser)
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the new bundle")
    parser.add_argument(
        "--pass",
        dest="passes",
        action="append",
        required=True,
        metavar="NAME",
        help="a graph pass: a name that `dovetail-ort graph passes` lists, or module:Class. Give the option once for "
        "each, in order",
    )
    parser.add_argument("--force", action="store_true", help="replace a bundle that is already at OUT")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    with export_packages("passes"):
        from dovetail_ort_export.laboratory.apply import apply_passes

    applied = apply_passes(
        Path(arguments.bundle), arguments.passes, arguments.out, graph=arguments.graph, force=arguments.force
    )
    print(json.dumps(_as_json(applied), indent=2) if arguments.json else _summary(applied))
    _warn(applied, arguments.bundle)
    return 0


def _warn(applied: AppliedPasses, before: str) -> None:
    if not applied.keeps_parity:
        consequence = "" if applied.draft_agreement is not None else ", so it is not called exact"
        tell(f"WARNING: {applied.directory} gives other results than {before}{consequence}")
    elif not applied.manifest.target.exact:
        tell(f"WARNING: {applied.directory} is NOT exact: results depend on the other rows of a forward")


def _summary(applied: AppliedPasses) -> str:
    lines = {"bundle": str(applied.directory), **measurement_lines(applied.manifest)}
    if applied.draft_agreement is not None:
        lines["drafter"] = f"{applied.draft_agreement:.1%} same first candidate as the drafter before"
    return page(lines)


def _as_json(applied: AppliedPasses) -> dict[str, Any]:
    return {
        "directory": str(applied.directory),
        "keeps_parity": applied.keeps_parity,
        "draft_agreement": applied.draft_agreement,
        "target": dataclasses.asdict(applied.manifest.target),
        "measurements": dataclasses.asdict(applied.manifest.measurements),
    }
