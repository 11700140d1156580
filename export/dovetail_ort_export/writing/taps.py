"""A target's graphs with one more output, `drafter_features`, beside the plain ones and over the same weights.

It knows no checkpoint: it reads graphs that were saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.heads.taps import Taps
from dovetail_ort_export.passes.editing import SKELETON_DOMAIN
from dovetail_ort_export.passes.lower_float import LowerFloat
from dovetail_ort_export.passes.lower_int8_blocks import LowerInt8Blocks
from dovetail_ort_export.passes.lower_native import LowerNative
from dovetail_ort_export.passes.project_features import ProjectFeatures
from dovetail_ort_export.passes.tap_levels import TapLevels
from dovetail_ort_export.pipeline import run_pass
from dovetail_ort_export.writing.graph_file import load_graph, save_graph_beside
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.formats import FP32, NATIVE, PORTABLE
from dovetail_ort_runtime.bundle.graph_entries import TapsEntry
from dovetail_ort_runtime.errors import InputError

_SUFFIX: Final = "_taps"
_TAP_LEVELS: Final = "tap-levels"


def write_taps(bundle: Bundle, directory: Path, taps: Taps, name_suffix: str = _SUFFIX) -> TapsEntry:
    """Write what a bundle's target is with taps; its weights stay where they are, those of the taps get a new file.

    Args:
        bundle: bundle of the target.
        directory: folder in which the target's graphs and their weights lie under the bundle's names.
        taps: the levels, and what becomes of them.
        name_suffix: what the names of the new graphs have behind those of the plain ones.

    Raises:
        InputError: the target was cut, has fewer levels, or its residual stream is not found.
        SourceError: the weight's width does not suit the portable INT8 format.
    """
    entry = bundle.manifest.target
    if entry.front_graph is not None:
        raise InputError("A target that was cut has no taps yet; export it again with --gpu-layers 0.")
    graph = directory / entry.graph
    portable = None
    if entry.portable_graph is not None:
        portable = _write(graph.with_name(entry.portable_graph), taps, PORTABLE, name_suffix)
    return TapsEntry(graph=_write(graph, taps, entry.format, name_suffix), levels=taps.levels, portable_graph=portable)


def _write(plain: Path, taps: Taps, graph_format: str, suffix: str) -> str:
    """Name of the tapped graph that is written beside the plain one."""
    graph = run_pass(load_graph(plain, reads_weights=False), _TAP_LEVELS, TapLevels(taps.levels)).model
    if taps.weight is not None:
        graph = run_pass(graph, "project-features", ProjectFeatures(taps)).model
        graph = run_pass(graph, f"lowering of {_TAP_LEVELS}", _lowering(taps, graph_format)).model
        graph.opset_imports.pop(SKELETON_DOMAIN, None)
    path = plain.with_name(f"{plain.stem}{suffix}{plain.suffix}")
    save_graph_beside(graph, path)
    return path.name


def _lowering(taps: Taps, graph_format: str) -> ir.passes.PassBase:
    if taps.precision == FP32:
        return LowerFloat()
    return LowerNative() if graph_format == NATIVE else LowerInt8Blocks()
