"""`dovetail-ort graph ablate`: what each graph pass of an export is worth."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dovetail_ort.cli.arguments import add_bundle, add_graph_choice, add_json
from dovetail_ort.cli.export_extra import Progress, export_packages
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_names import DRAFTER

if TYPE_CHECKING:
    from dovetail_ort_export.laboratory.ablation import Ablation, Workshop

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
    add_graph_choice(parser)
    parser.add_argument(
        "--source",
        required=True,
        help="the model that the bundle was exported from, or for the drafter the directory of its head",
    )
    parser.add_argument(
        "--recipe",
        dest="recipes",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="TOML file with another list of graph passes to measure. May be given several times",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"also write {_REPORT}, {_CHART} and {_RECORD} into this directory"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    progress = Progress()
    bundle = Bundle(arguments.bundle)
    with export_packages("ablation"):
        from dovetail_ort_export.laboratory.ablation_report import markdown
        from dovetail_ort_export.recipe import read_recipe

    others = {path.stem: read_recipe(path) for path in arguments.recipes}
    workshop = _workshop(arguments, bundle, progress)
    ablation = workshop.ablate(bundle.manifest, others, progress)
    record = json.dumps(dataclasses.asdict(ablation), indent=2)
    page = markdown(ablation, _CHART)
    if arguments.out is not None:
        _write(arguments.out, ablation, record, page)
    print(record if arguments.json else page)
    return 0


def _workshop(arguments: argparse.Namespace, bundle: Bundle, progress: Progress) -> Workshop[Any]:
    with export_packages("ablation"):
        from dovetail_ort_export.laboratory.workshops import DrafterWorkshop, TargetWorkshop

    if arguments.graph == DRAFTER:
        return DrafterWorkshop(bundle, Path(arguments.source), progress)
    return TargetWorkshop(bundle.manifest, arguments.source, progress)


def _write(folder: Path, ablation: Ablation, record: str, page: str) -> None:
    with export_packages("chart", with_torch=False):
        from dovetail_ort_export.laboratory.ablation_report import draw_chart

    folder.mkdir(parents=True, exist_ok=True)
    (folder / _RECORD).write_text(record + "\n", encoding="utf-8")
    (folder / _REPORT).write_text(page, encoding="utf-8")
    draw_chart(ablation, folder / _CHART)
