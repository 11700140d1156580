"""`dovetail-ort graph passes`: the graph passes by name."""

from __future__ import annotations

import argparse
import json

from dovetail_ort.cli.arguments import add_json
from dovetail_ort.cli.export_extra import export_packages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  dovetail-ort graph passes\n\n"
        "A recipe is a list of these names: dovetail-ort export --recipe FILE. Graph passes of other packages are\n"
        "found through the entry point group dovetail_ort.passes."
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    with export_packages("list of graph passes", with_torch=False):
        from dovetail_ort_export.pipeline import pass_types, summary

    lines = {name: summary(kind) for name, kind in pass_types().items()}
    if arguments.json:
        print(json.dumps(lines, indent=2))
    else:
        width = max(map(len, lines))
        print("\n".join(f"{name:<{width}}  {line}" for name, line in lines.items()))
    return 0
