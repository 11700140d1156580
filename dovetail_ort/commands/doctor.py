"""`dovetail-ort doctor`: what works here, and the command that repairs what does not."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Final

import dovetail_ort
from dovetail_ort.cli.arguments import add_json
from dovetail_ort.cli.terminal import tell
from dovetail_ort.health import health_checks, is_healthy, remedies
from dovetail_ort_runtime.bundle.bundle import Bundle

_MARKS: Final = {"ok": "[ok]", "note": "[--]", "problem": "[!!]"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "marks:\n  [ok] works   [--] optional   [!!] must be repaired; the exit status is then 1\n\n"
        "examples:\n  dovetail-ort doctor\n  dovetail-ort doctor smollm2"
    )
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        nargs="?",
        help="also check whether this bundle runs, and whether it is exact on this machine",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check everything; 1 if something must be repaired."""
    bundle = None
    if arguments.bundle is not None:
        bundle = Bundle(arguments.bundle)
        tell("the bundle is run too, after the checks of this machine")
    if arguments.json:
        checks = list(health_checks(bundle))
        record = {"healthy": is_healthy(checks), "checks": [asdict(check) for check in checks]}
        print(json.dumps(record, indent=2))
        return 0 if is_healthy(checks) else 1
    print(f"dovetail-ort {dovetail_ort.__version__}")
    checks = []
    for check in health_checks(bundle):
        checks.append(check)
        print(f"{_MARKS[check.status]} {check.name:<22} {check.found}", flush=True)
    print("\n".join(remedies(checks)))
    return 0 if is_healthy(checks) else 1
