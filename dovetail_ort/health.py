"""What works on this machine and with a bundle, and the command that repairs what does not. It prints nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from packaging.requirements import Requirement

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.formats import FP16
from dovetail_ort_runtime.engine.devices import CPU, CUDA, CUDA_PROVIDER
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.reference_bits import REFERENCE_BITS, bits_here
from dovetail_ort_runtime.engine.row_invariance import ROWS_AT_EXPORT, TOKENS_AT_EXPORT, measure_row_invariance
from dovetail_ort_runtime.engine.session import SessionReport, try_cuda
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import UnavailableError, split_advice
from dovetail_ort_runtime.machine.cuda_runtime import cuda_versions, device_name
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime, onnxruntime_distributions
from dovetail_ort_runtime.machine.processor import instruction_sets, processor_name

Status = Literal["ok", "note", "problem"]

_OPERATORS: Final = "native operators"
_EXTRAS: Final = ("export", "server", "hub")
_REMEDIES: Final = {"problem": "to repair", "note": "optional"}


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthCheck:
    """The result of one check.

    Attributes:
        name: what was checked.
        status: `ok`, `note` for what is optional or cannot be known, `problem` for what must be repaired.
        found: what is there, in words.
        remedy: command or action that repairs it; None if nothing needs repair.
    """

    name: str
    status: Status = "ok"
    found: str
    remedy: str | None = None


def is_healthy(checks: list[HealthCheck]) -> bool:
    """Whether nothing must be repaired."""
    return all(check.status != "problem" for check in checks)


def health_checks(bundle: Bundle | None) -> Iterator[HealthCheck]:
    """Check the machine and a bundle, and yield each result as soon as it is known.

    Args:
        bundle: bundle to run on this machine; None checks only the machine.
    """
    yield from _check_machine()
    runtime = list(_check_onnxruntime())
    yield from runtime
    operators = _check_operators()
    yield operators
    if is_healthy(runtime) and operators.status == "ok":
        yield _check_bits()
    yield from _check_packages()
    for extra in _EXTRAS:
        yield from _check_packages(extra)
    if bundle is None:
        return
    yield HealthCheck(name="bundle", found=f"{bundle.directory} is complete")
    if is_healthy(runtime):
        yield _check_exactness(bundle)
        yield _check_drafter(bundle, cuda_works=any(check.name == CUDA and check.status == "ok" for check in runtime))


def remedies(checks: list[HealthCheck]) -> list[str]:
    """Each remedy once, those of problems first; or one line that says that nothing needs repair."""
    found = [
        f"{label}: {check.remedy}"
        for status, label in _REMEDIES.items()
        for check in checks
        if check.status == status and check.remedy
    ]
    return list(dict.fromkeys(found)) or ["nothing to repair"]


def _failed(name: str, status: Status, reason: object) -> HealthCheck:
    """A check whose result is an error of this project, or its message."""
    found, advice = split_advice(reason)
    remedy = None if advice is None else advice.removeprefix("run: ")
    return HealthCheck(name=name, status=status, found=found, remedy=remedy)


def _check_machine() -> Iterator[HealthCheck]:
    yield HealthCheck(name="python", found=platform.python_version())
    yield HealthCheck(name="platform", found=platform.platform())
    yield HealthCheck(name="processor", found=f"{processor_name()}; {os.cpu_count()} logical cores")
    found = instruction_sets()
    if found is None:
        yield HealthCheck(
            name="instruction sets", status="note", found="unknown, because this system has no /proc/cpuinfo"
        )
    else:
        yield HealthCheck(name="instruction sets", found=", ".join(found) or "none that the operators use")


def _check_onnxruntime() -> Iterator[HealthCheck]:
    try:
        providers = import_onnxruntime().get_available_providers()
    except UnavailableError as error:
        yield _failed("onnxruntime", "problem", error)
        return
    distributions = " and ".join(f"{name} {version}" for name, version in onnxruntime_distributions().items())
    yield HealthCheck(name="onnxruntime", found=distributions)
    yield HealthCheck(name="providers", found=", ".join(providers))
    if CUDA_PROVIDER in providers:
        yield _check_cuda_versions()
        yield _check_cuda()
    else:
        yield HealthCheck(name=CUDA, status="note", found="no CUDA provider; everything runs on the CPU")


def _check_operators() -> HealthCheck:
    """Whether the library of native operators is there. Without it portable bundles still work."""
    reason = kernels.why_missing()
    if reason is not None:
        return _failed(_OPERATORS, "note", reason)
    try:
        level = kernels.level()
    except UnavailableError as error:
        return _failed(_OPERATORS, "problem", error)
    parts = (
        f"level {level} of {', '.join(kernels.levels())}",
        f"operators {kernels.OPERATOR_VERSION}",
        f"library {kernels.library_version()}, {kernels.library_path()}",
    )
    return HealthCheck(name=_OPERATORS, found="; ".join(parts))


def _check_bits() -> HealthCheck:
    """Whether the native operators give the same bits here as on every machine."""
    found = bits_here()
    if found == REFERENCE_BITS:
        return HealthCheck(name="bits", found=f"the native operators give the reference bits, {found}")
    return HealthCheck(
        name="bits",
        status="problem",
        found=f"the native operators give other bits than on other machines: {found} instead of {REFERENCE_BITS}",
        remedy="report this processor, and export with --format portable until it is fixed",
    )


def _check_cuda_versions() -> HealthCheck:
    versions = cuda_versions()
    parts = (
        f"driver {versions.driver or 'none'}, needed {versions.needed_driver or 'unknown'} or newer",
        f"CUDA {versions.cuda or 'none'}, needed {versions.needed_cuda}",
        f"cuDNN {versions.cudnn or 'none'}, not needed",
    )
    return HealthCheck(
        name="cuda versions", status="ok" if versions.driver and versions.cuda else "note", found="; ".join(parts)
    )


def _check_cuda() -> HealthCheck:
    """Whether a graph runs on CUDA. Without CUDA everything still works on the CPU."""
    try:
        try_cuda()
    except UnavailableError as error:
        return _failed(CUDA, "note", error)
    return HealthCheck(name=CUDA, found=f"a graph ran on {device_name()} with CUDA {cuda_versions().cuda}")


def _check_packages(extra: str = "") -> Iterator[HealthCheck]:
    """The packages that this distribution requires, or the optional ones of one of its extras."""
    remedy = f'pip install "dovetail-ort[{extra}]"' if extra else "pip install dovetail-ort"
    for requirement in map(Requirement, importlib.metadata.requires("dovetail-ort") or []):
        is_wanted = _applies(requirement, extra)
        is_always_required = _applies(requirement, "")
        if is_wanted and not (extra and is_always_required):
            yield _check_package(requirement, extra, remedy)


def _applies(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is None or marker.evaluate({"extra": extra})


def _check_package(requirement: Requirement, extra: str, remedy: str) -> HealthCheck:
    label = f"[{extra}] {requirement.name}" if extra else requirement.name
    bad: Status = "note" if extra else "problem"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return HealthCheck(name=label, status=bad, found="not installed", remedy=remedy)
    if not requirement.specifier.contains(version, prereleases=True):
        found = f"{version}, must be {requirement.specifier}"
        return HealthCheck(name=label, status=bad, found=found, remedy=remedy)
    return HealthCheck(name=label, found=version)


def _check_exactness(bundle: Bundle) -> HealthCheck:
    """Whether the bundle is batch-invariant on this machine too."""
    entry = bundle.manifest.target
    num_tokens = min(TOKENS_AT_EXPORT, entry.max_context - 1)
    target = Target(bundle.path(entry.graph), entry, max_context=num_tokens + 1)
    sessions = "; ".join(map(_describe_session, target.reports()))
    measured = measure_row_invariance(target, np.arange(num_tokens) * 37 % entry.vocabulary_size, ROWS_AT_EXPORT)
    sizes = ", ".join(map(str, measured.rows))
    if measured.identical:
        return HealthCheck(name="exactness", found=f"identical logits at {sizes} rows a forward; {sessions}")
    found = f"logits differ by up to {measured.largest_difference:.3g} between {sizes} rows a forward"
    remedy = "use --max-draft-tokens 0, or export with --format native"
    return HealthCheck(name="exactness", status="problem" if entry.exact else "note", found=found, remedy=remedy)


def _check_drafter(bundle: Bundle, *, cuda_works: bool) -> HealthCheck:
    """Whether the bundle has a head of its own, and whether it loads."""
    entry = bundle.manifest.drafter
    if entry is None:
        return HealthCheck(
            name="drafter",
            status="note",
            found="none, prompt lookup drafts alone",
            remedy="dovetail-ort train BUNDLE HEAD, then dovetail-ort attach",
        )
    device = CUDA if cuda_works and entry.precision == FP16 else CPU
    report = DraftGraph(bundle.path(entry.graph), entry, capacity=2, threads=1, device=device, trees=False).report()
    found = f"{entry.fusion}, {entry.num_layers} block{'s' * (entry.num_layers > 1)}, {entry.precision}"
    found += f"; {_describe_session(report)}"
    if not entry.loses:
        return HealthCheck(name="drafter", found=found)
    found += f"; only {entry.acceptance[0].first:.0%} of its first tokens were right, so drafting costs time"
    return HealthCheck(name="drafter", status="note", found=found, remedy="dovetail-ort attach BUNDLE --none")


def _describe_session(report: SessionReport) -> str:
    nodes = ", ".join(f"{number} nodes on {provider}" for provider, number in report.nodes.items())
    return f"{report.device}, {nodes}, {report.weight_bytes / 1e6:.1f} MB"
