"""`dovetail-ort doctor`: what works here, and the command that mends what does not."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np
from packaging.requirements import Requirement

from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.draft_model import DraftModel
from dovetail_ort_runtime.environment import (
    import_onnxruntime,
    instruction_sets,
    onnxruntime_distributions,
    processor_name,
)
from dovetail_ort_runtime.errors import UnavailableError
from dovetail_ort_runtime.row_invariance import ROWS_AT_EXPORT, TOKENS_AT_EXPORT, measure_row_invariance
from dovetail_ort_runtime.session import SessionReport
from dovetail_ort_runtime.target import Target

Status = Literal["ok", "note", "problem"]

_DISTRIBUTION: Final = "dovetail-ort"
_MARKS: Final = {"ok": "[ok]", "note": "[--]", "problem": "[!!]"}
_REMEDIES: Final = {"problem": "to mend", "note": "optional"}
_UNHEALTHY: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthCheck:
    """One finding.

    Attributes:
        name: what was looked at.
        status: `note` for what is optional or cannot be known, `problem` for what must be mended.
        found: what is there.
        remedy: command or action that mends it, or None.
    """

    name: str
    status: Status
    found: str
    remedy: str | None = None


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
    yield from _check_machine()
    runnable = True
    for check in _check_onnxruntime():
        runnable = runnable and check.status != "problem"
        yield check
    yield from _check_packages()
    yield from _check_packages("export")
    if bundle is None:
        return
    yield HealthCheck(name="bundle", status="ok", found=f"{bundle.directory} is complete")
    if runnable:
        print("running the bundle", file=sys.stderr)
        yield _check_exactness(bundle)
        yield _check_drafter(bundle)


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


def _check_machine() -> Iterator[HealthCheck]:
    """Python, platform and processor."""
    yield HealthCheck(name="python", status="ok", found=platform.python_version())
    yield HealthCheck(name="platform", status="ok", found=platform.platform())
    processor = f"{processor_name()}; {os.cpu_count()} logical cores"
    yield HealthCheck(name="processor", status="ok", found=processor)
    found = instruction_sets()
    if found is None:
        yield HealthCheck(name="instruction sets", status="note", found="unknown, there is no /proc/cpuinfo")
    else:
        yield HealthCheck(name="instruction sets", status="ok", found=", ".join(found) or "none that matter here")


def _check_onnxruntime() -> Iterator[HealthCheck]:
    """The one ONNX Runtime distribution, its version and its providers."""
    distributions = " and ".join(f"{name} {version}" for name, version in onnxruntime_distributions().items())
    try:
        providers = import_onnxruntime().get_available_providers()
    except UnavailableError as error:
        found, _, remedy = str(error).rpartition("; run: ")
        yield HealthCheck(name="onnxruntime", status="problem", found=found, remedy=remedy)
        return
    except AttributeError:  # what uninstalling one of two distributions leaves behind
        remedy = "pip install --force-reinstall 'dovetail-ort[cpu]'"
        yield HealthCheck(name="onnxruntime", status="problem", found="an incomplete installation", remedy=remedy)
        return
    yield HealthCheck(name="onnxruntime", status="ok", found=distributions)
    yield HealthCheck(name="providers", status="ok", found=", ".join(providers))
    if "CUDAExecutionProvider" in providers:
        yield HealthCheck(name="cuda", status="ok", found="ONNX Runtime has the CUDA provider")
    else:
        yield HealthCheck(name="cuda", status="note", found="no provider; the target runs on the CPU and needs none")


def _check_packages(extra: str | None = None) -> Iterator[HealthCheck]:
    """The packages that this distribution requires, or those of one of its extras, which are optional."""
    remedy = f"pip install '{_DISTRIBUTION}[{extra}]'" if extra else f"pip install {_DISTRIBUTION}"
    for requirement in map(Requirement, importlib.metadata.requires(_DISTRIBUTION) or []):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always if extra is None else not always and marker is not None and marker.evaluate({"extra": extra}):
            yield _check_package(requirement, extra, remedy)


def _check_package(requirement: Requirement, extra: str | None, remedy: str) -> HealthCheck:
    label = f"[{extra}] {requirement.name}" if extra else requirement.name
    bad: Status = "note" if extra else "problem"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return HealthCheck(name=label, status=bad, found="not installed", remedy=remedy)
    if not requirement.specifier.contains(version, prereleases=True):
        found = f"{version}, must be {requirement.specifier}"
        return HealthCheck(name=label, status=bad, found=found, remedy=remedy)
    return HealthCheck(name=label, status="ok", found=version)


def _check_exactness(bundle: Bundle) -> HealthCheck:
    """Whether the bundle's logits are independent of the rows beside them on this machine, too."""
    entry = bundle.manifest.target
    num_tokens = min(TOKENS_AT_EXPORT, entry.max_context - 1)
    target = Target(bundle.path(entry.graph), entry, max_context=num_tokens + 1)
    sessions = "; ".join(map(_describe_session, target.reports()))
    measured = measure_row_invariance(target, np.arange(num_tokens) * 37 % entry.vocabulary_size, ROWS_AT_EXPORT)
    sizes = ", ".join(map(str, measured.rows))
    if measured.identical:
        found = f"identical logits at {sizes} rows a pass; {sessions}"
        return HealthCheck(name="exactness", status="ok", found=found)
    found = f"logits differ by up to {measured.largest_difference:.3g} between {sizes} rows a pass"
    remedy = "use --max-draft-tokens 0, or export on this machine with --precision fp32"
    return HealthCheck(name="exactness", status="problem" if entry.exact else "note", found=found, remedy=remedy)


def _check_drafter(bundle: Bundle) -> HealthCheck:
    """Whether the bundle has a drafter of its own, and that it loads."""
    entry = bundle.manifest.drafter
    if entry is None:
        found, remedy = "none, prompt lookup drafts alone", "dovetail-ort train BUNDLE HEAD, then dovetail-ort attach"
        return HealthCheck(name="drafter", status="note", found=found, remedy=remedy)
    report = DraftModel(bundle.path(entry.graph), entry, capacity=2, threads=1).report()
    found = f"{entry.fusion}, {entry.num_layers} block{'s' * (entry.num_layers > 1)}, {entry.precision}"
    return HealthCheck(name="drafter", status="ok", found=f"{found}; {_describe_session(report)}")


def _describe_session(report: SessionReport) -> str:
    """Device, nodes by provider and size in a few words."""
    nodes = ", ".join(f"{number} nodes on {provider}" for provider, number in report.nodes.items())
    return f"{report.device}, {nodes}, {report.weight_bytes / 1e6:.1f} MB"
