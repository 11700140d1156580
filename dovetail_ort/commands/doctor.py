"""`dovetail-ort doctor`: what works here, and the command that mends what does not."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from dovetail_ort.health_checks import (
    HealthCheck,
    check_drafter,
    check_exactness,
    check_machine,
    check_onnxruntime,
    check_packages,
)
from dovetail_ort_runtime.bundle import Bundle

_MARKS: Final = {"ok": "[ok]", "note": "[--]", "problem": "[!!]"}
_REMEDIES: Final = {"problem": "to mend", "note": "optional"}
_UNHEALTHY: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.epilog = (
        "marks:\n  [ok] as it should be   [--] optional   [!!] must be mended; the exit status is then 1\n\n"
        "examples:\n  dovetail-ort doctor\n  dovetail-ort doctor smollm2"
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", nargs="?", help="check also that this bundle runs, and is exact on this machine"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Check everything; 1 if something must be mended."""
    bundle = None if arguments.bundle is None else Bundle(arguments.bundle)
    checks = []
    if not arguments.json:
        print(f"dovetail-ort {importlib.metadata.version('dovetail-ort')}")
    for check in _checks(bundle):
        checks.append(check)
        if not arguments.json:
            print(_line(check), flush=True)
    healthy = all(check.status != "problem" for check in checks)
    if not arguments.json:
        print("\n".join(_remedies(checks)))
    else:
        print(json.dumps({"healthy": healthy, "checks": [asdict(check) for check in checks]}, indent=2))
    return 0 if healthy else _UNHEALTHY


def _checks(bundle: Bundle | None) -> Iterator[HealthCheck]:
    yield from check_machine()
    runnable = True
    for check in check_onnxruntime():
        runnable = runnable and check.status != "problem"
        yield check
    yield from check_packages()
    yield from check_packages("export")
    if bundle is None:
        return
    yield HealthCheck(name="bundle", status="ok", found=f"{bundle.directory} is complete")
    if runnable:
        print("running the bundle", file=sys.stderr)
        yield check_exactness(bundle)
        yield check_drafter(bundle)


def _line(check: HealthCheck) -> str:
    return f"{_MARKS[check.status]} {check.name:<22} {check.found}"


def _remedies(checks: list[HealthCheck]) -> list[str]:
    """Each remedy once, what must be mended first; or that there is none."""
    remedies = [
        f"{label}: {check.remedy}"
        for status, label in _REMEDIES.items()
        for check in checks
        if check.status == status and check.remedy
    ]
    return list(dict.fromkeys(remedies)) or ["nothing to mend"]
