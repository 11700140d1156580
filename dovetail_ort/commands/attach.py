"""`dovetail-ort attach`: put a trained draft head into a bundle."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from dovetail_ort.cli.bundle_lines import describe_drafter, page
from dovetail_ort.cli.export_extra import Progress, import_from_export
from dovetail_ort_export.options import AUTO_PRECISION, DRAFTER_PRECISIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  dovetail-ort attach smollm2 head"
    parser.add_argument("bundle", metavar="BUNDLE", help="directory that `dovetail-ort export` wrote; it is changed")
    parser.add_argument("head", metavar="HEAD", type=Path, help="directory that `dovetail-ort train` wrote")
    parser.add_argument(
        "--precision",
        choices=DRAFTER_PRECISIONS,
        default=AUTO_PRECISION,
        help="number format of weights; auto is int4 in the native format, else int8 (default: %(default)s)",
    )
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="TOML list of passes, in place of --precision")


def run(arguments: argparse.Namespace) -> int:
    attach_drafter = import_from_export("exporter", "attach").attach_drafter
    manifest = attach_drafter(
        arguments.bundle, arguments.head, arguments.precision, Progress(), recipe=arguments.recipe
    )
    following = f'dovetail-ort generate {shlex.quote(arguments.bundle)} "Why is the sky blue?"'
    print(page({"drafter": describe_drafter(manifest), "next": following}))
    return 0
