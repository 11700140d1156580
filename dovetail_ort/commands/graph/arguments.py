"""Arguments that the commands on graphs share."""

from __future__ import annotations

import argparse
from typing import Final

TARGET: Final = "target"
GRAPHS: Final = (TARGET, "drafter")


def add_graph_choice(parser: argparse.ArgumentParser) -> None:
    """The option that says which of a bundle's graphs is meant."""
    parser.add_argument("--graph", choices=GRAPHS, default=TARGET, help="which of the bundle's (default: %(default)s)")
