"""`dovetail-ort graph passes`: the passes by name."""

from __future__ import annotations

import argparse
import json

from dovetail_ort.cli.export_extra import import_from_export
from dovetail_ort.commands import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  dovetail-ort graph passes\n\nRecipes name them: dovetail-ort export --recipe FILE. "
        "Passes of other\npackages are found through the entry point group dovetail_ort.passes."
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    pipeline = import_from_export("list of passes", "pipeline")
    lines = {name: pipeline.summary(kind) for name, kind in pipeline.pass_types().items()}
    if arguments.json:
        print(json.dumps(lines, indent=2))
    else:
        width = max(map(len, lines))
        print("\n".join(f"{name:<{width}}  {line}" for name, line in lines.items()))
    return 0
