"""`dovetail-ort graph`: commands for people who change graphs, and the arguments that they share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

COMMANDS: Final = {
    "passes": "list the passes that an export is made of",
    "apply": "run passes over a bundle's graph and write a new bundle",
    "diff": "compare two graphs by nodes, weights and bytes",
    "profile": "show where the time of a forward goes",
    "ablate": "measure what each pass of an export is worth",
}
USAGE: Final = "dovetail-ort graph [-h] COMMAND ..."
EXAMPLES: Final = (
    "example:\n  dovetail-ort graph profile smollm2 --tokens 1,6\n\ndovetail-ort graph COMMAND --help has more."
)


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """The bundle, and which of its graphs is meant."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory of a bundle, or its name on the hub")
    add_graph_choice(parser)


def add_graph_choice(parser: argparse.ArgumentParser) -> None:
    """The option that says which of a bundle's graphs is meant."""
    graphs = ("target", "drafter")
    parser.add_argument(
        "--graph", choices=graphs, default=graphs[0], help="which of the bundle's (default: %(default)s)"
    )
