"""`dovetail-ort attach`: put a trained draft head into a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from dovetail_ort.cli.bundle_lines import describe_drafter, page
from dovetail_ort.cli.export_extra import Progress, export_packages
from dovetail_ort.cli.terminal import quoted
from dovetail_ort_export.options import AUTO_PRECISION, DRAFTER_PRECISIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  dovetail-ort attach smollm2 head"
    parser.add_argument(
        "bundle", metavar="BUNDLE", help="a directory that `dovetail-ort export` wrote; the head is added to it"
    )
    parser.add_argument("head", metavar="HEAD", type=Path, help="a directory that `dovetail-ort train` wrote")
    parser.add_argument(
        "--precision",
        choices=DRAFTER_PRECISIONS,
        default=AUTO_PRECISION,
        help="number format of the head's weights. auto is int4 in a native bundle, and int8 in others "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="TOML file with a list of graph passes, instead of --precision"
    )


def run(arguments: argparse.Namespace) -> int:
    with export_packages("exporter"):
        from dovetail_ort_export.attach import attach_drafter

    manifest = attach_drafter(
        arguments.bundle, arguments.head, arguments.precision, Progress(), recipe=arguments.recipe
    )
    following = f'dovetail-ort generate {quoted(arguments.bundle)} "Why is the sky blue?"'
    print(page({"drafter": describe_drafter(manifest), "next": following}))
    return 0
