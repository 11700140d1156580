"""`dovetail-ort graph ablate`: what each pass of an export is worth."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Final

from dovetail_ort.cli.export_extra import Progress, import_from_export
from dovetail_ort.commands import add_json
from dovetail_ort.commands.graph import add_bundle
from dovetail_ort_runtime.bundle.bundle import Bundle

_CHART: Final = "ablation.png"
_REPORT: Final = "ablation.md"
_RECORD: Final = "ablation.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  dovetail-ort graph ablate smollm2 --source SmolLM2-135M-Instruct.Q4_1.gguf --out report\n"
        "  dovetail-ort graph ablate smollm2 --graph drafter --source head"
    )
    add_bundle(parser)
    parser.add_argument(
        "--source", required=True, help="the model that the bundle was exported from, or the head of its drafter"
    )
    parser.add_argument(
        "--recipe",
        dest="recipes",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="TOML list of passes, measured beside the bundle's own; any number of times",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"write {_REPORT}, {_CHART} and {_RECORD} there as well"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    bundle, progress = Bundle(arguments.bundle), Progress()
    read_recipe = import_from_export("ablation", "recipe").read_recipe
    others = {path.stem: read_recipe(path) for path in arguments.recipes}
    workshops = import_from_export("ablation", "laboratory.workshops")
    report = import_from_export("ablation", "laboratory.ablation_report")
    if arguments.graph == "drafter":
        workshop = workshops.DrafterWorkshop(bundle, Path(arguments.source), progress)
    else:
        workshop = workshops.TargetWorkshop(bundle.manifest, arguments.source, progress)
    ablation = workshop.ablate(bundle.manifest, others, progress)
    record, page = json.dumps(dataclasses.asdict(ablation), indent=2), report.markdown(ablation, _CHART)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / _RECORD).write_text(record + "\n", encoding="utf-8")
        (arguments.out / _REPORT).write_text(page, encoding="utf-8")
        report.draw_chart(ablation, arguments.out / _CHART)
    print(record if arguments.json else page)
    return 0
