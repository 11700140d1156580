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
    parser.epilog = (
        "A head that others have trained is measured on text that the target writes: each way to read it that its\n"
        "configuration leaves open, then the share of its tokens that the target accepts.\n\n"
        "examples:\n"
        "  dovetail-ort attach smollm2 head\n"
        "  dovetail-ort attach llama yuhuili/EAGLE3-LLaMA3.1-Instruct-8B\n"
        "  dovetail-ort attach smollm2 --none"
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", help="a directory that `dovetail-ort export` wrote; the head is added to it"
    )
    parser.add_argument(
        "head",
        metavar="HEAD",
        nargs="?",
        help="a directory that `dovetail-ort train` wrote, or an EAGLE head that others have trained: a directory, or "
        "a hub name as owner/name[@revision]",
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
        "--force", action="store_true", help="attach a head although the target accepts hardly any of its tokens"
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
            arguments.bundle,
            arguments.head,
            arguments.precision,
            Progress(),
            recipe=arguments.recipe,
            force=arguments.force,
        )
    following = f'dovetail-ort generate {quoted(arguments.bundle)} "Why is the sky blue?"'
    print(page({**drafter_lines(manifest), "next": following}))
    return 0
