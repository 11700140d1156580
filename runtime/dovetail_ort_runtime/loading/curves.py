"""The times that a planner plans with: those stored for this bundle on this machine, or new ones that are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.formats import NATIVE, PORTABLE
from dovetail_ort_runtime.drafting.drafter import ModelDrafter
from dovetail_ort_runtime.engine.devices import CUDA
from dovetail_ort_runtime.engine.session import SessionReport
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.machine.cuda_runtime import device_name
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime
from dovetail_ort_runtime.machine.processor import processor_name
from dovetail_ort_runtime.planning.curve_cache import CurveKey, load_curves, store_curves
from dovetail_ort_runtime.planning.curve_measurement import BRIEF, METHOD, THOROUGH, measure_curves
from dovetail_ort_runtime.planning.time_curves import TimeCurves


def curves_here(bundles: Sequence[Bundle], target: Target, model: ModelDrafter | None, *, tune: bool) -> TimeCurves:
    """Times of a target's forwards and of a model's drafts on this machine.

    Args:
        bundles: the target's bundle, and the drafter's if it has one of its own.
        target: its forwards are timed.
        model: the drafter whose drafts are timed, or None.
        tune: whether to measure thoroughly even if times are stored.
    """
    key = _key(bundles, target, model)
    stored = None if tune else load_curves(key)
    if stored is not None:
        return stored
    measured = measure_curves(target, model, THOROUGH if tune else BRIEF)
    store_curves(key, measured)
    return measured


def _key(bundles: Sequence[Bundle], target: Target, model: ModelDrafter | None) -> CurveKey:
    checksums = "".join(entry.sha256 for bundle in bundles for entry in bundle.manifest.files)
    reports = [*target.reports()]
    if model is not None:
        reports += model.reports()
    return CurveKey(
        bundles=hashlib.sha256(checksums.encode()).hexdigest(),
        drafter=type(model).__name__,
        devices=tuple(_device(report) for report in reports),
        processor=processor_name(),
        onnxruntime=import_onnxruntime().__version__,
        operators=_operators(target),
        threads=target.threads,
        max_context=target.cache.capacity,
        method=METHOD,
    )


def _operators(target: Target) -> str:
    operators = NATIVE if target.is_native else PORTABLE
    if kernels.is_available():
        operators += f", kernels {kernels.level()} {kernels.library_version()}"  # the drafter may be native, too
    return operators


def _device(report: SessionReport) -> str:
    return f"cuda, {device_name()}" if report.device == CUDA else report.device
