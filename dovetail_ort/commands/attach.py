"""`dovetail-ort attach`: put a draft head into a bundle, or take it out."""

from __future__ import annotations

import argparse
from pathlib import Path

from dovetail_ort.cli.bundle_lines import drafter_lines, page
from dovetail_ort.cli.export_extra import Progress, export_packages
from dovetail_ort.cli.terminal import quoted
from dovetail_ort_export.options import AUTO_PRECISION, DRAFTER_PRECISIONS
from dovetail_ort_runtime.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "examples:\n  dovetail-ort attach smollm2 head\n  dovetail-ort attach smollm2 --none"
    parser.add_argument(
        "bundle", metavar="BUNDLE", help="a directory that `dovetail-ort export` wrote; the head is added to it"
    )
    parser.add_argument(
        "head", metavar="HEAD", nargs="?", type=Path, help="a directory that `dovetail-ort train` wrote"
    )
    parser.add_argument(
        "--none", action="store_true", help="take the bundle's head out of it, which leaves the bundle as it was"
    )
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
    if arguments.none == (arguments.head is not None):
        raise InputError("attach needs either a HEAD or --none; give one of them")
    with export_packages("exporter", with_torch=not arguments.none):
        from dovetail_ort_export.attach import attach_drafter, detach_drafter

    if arguments.none:
        manifest = detach_drafter(arguments.bundle)
    else:
        manifest = attach_drafter(
            arguments.bundle, arguments.head, arguments.precision, Progress(), recipe=arguments.recipe
        )
    following = f'dovetail-ort generate {quoted(arguments.bundle)} "Why is the sky blue?"'
    print(page({**drafter_lines(manifest), "next": following}))
    return 0
