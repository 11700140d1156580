"""Which of a bundle's graphs are opened on this machine, and whether they are what the manifest says.

A target may have a native graph, a portable one, and one for its first blocks. A drafter, or a target's first blocks,
may have a second graph for chains alone, without attention bias: CUDA's flash attention takes none. Both graphs name
the same weights, and one session has one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.formats import NATIVE
from dovetail_ort_runtime.bundle.graph_entries import TapsEntry, TargetEntry
from dovetail_ort_runtime.bundle.graph_names import ATTENTION_BIAS, DRAFTER_FEATURES, VALUE, is_present, present
from dovetail_ort_runtime.engine.cache_memory import CacheShape
from dovetail_ort_runtime.engine.devices import CPU, CUDA
from dovetail_ort_runtime.engine.ort_protocols import Session
from dovetail_ort_runtime.errors import BundleError, InputError, UnavailableError


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetGraphs:
    """One graph for the CPU and, if the target is cut, one for the first blocks before it.

    Attributes:
        graph: path of the graph of all blocks, or of those after the first blocks.
        is_native: whether `graph` has this package's own operators.
        first_blocks: path of the graph of the first blocks, or None.
        num_first_blocks: number of blocks in `first_blocks`.
    """

    graph: Path
    is_native: bool
    first_blocks: Path | None = None
    num_first_blocks: int = 0


def graphs_to_load(
    graph: Path, entry: TargetEntry, first_blocks_device: str, taps: TapsEntry | None = None
) -> TargetGraphs:
    """The two graphs of a cut target, the whole native graph, or the portable graph where the library is missing.

    A native target that was cut is opened in two graphs for a GPU only.

    Args:
        graph: path of `entry.graph`.
        entry: what the manifest says of the target.
        first_blocks_device: device for the first blocks of a target that was cut.
        taps: the graphs that take the place of the whole native graph and of the portable one; or None.

    Raises:
        UnavailableError: the target is native only, and the library cannot be loaded.
        InputError: the target was cut, and there are taps.
    """
    if taps is not None:
        if entry.front_graph is not None:
            raise InputError("A target that was cut has no taps; export it again with --gpu-layers 0.")
        graph = graph.with_name(taps.graph)
        entry = replace(entry, graph=taps.graph, portable_graph=taps.portable_graph)
    first_blocks = None if entry.front_graph is None else graph.with_name(entry.front_graph)
    if entry.format != NATIVE:
        return TargetGraphs(
            graph=graph, is_native=False, first_blocks=first_blocks, num_first_blocks=entry.front_layers
        )
    if not kernels.is_available():
        if entry.portable_graph is None:
            raise UnavailableError(missing_library(graph))
        return TargetGraphs(graph=graph.with_name(entry.portable_graph), is_native=False)
    if first_blocks is None or first_blocks_device == CPU:
        return TargetGraphs(graph=graph, is_native=True)
    assert entry.rest_graph is not None, "a native target with a front graph has a rest graph"
    rest = graph.with_name(entry.rest_graph)
    return TargetGraphs(graph=rest, is_native=True, first_blocks=first_blocks, num_first_blocks=entry.front_layers)


def graph_to_open(graph: Path, chain_graph: str | None, *, device: str, trees: bool) -> Path:
    """The graph for chains if it is there, on CUDA and without trees; else the graph for both.

    Args:
        graph: path of the graph for chains and trees.
        chain_graph: name of the graph for chains in the same folder, or None.
        device: `cpu` or `cuda`.
        trees: whether trees are drafted, too.
    """
    if device != CUDA or trees or chain_graph is None:
        return graph
    return graph.with_name(chain_graph)


def check_bias(session: Session, graph: Path, *, for_chains: bool) -> None:
    """Refuse a graph for chains that has an attention bias, and a graph for trees that has none.

    Raises:
        BundleError: the graph is of the other kind.
    """
    has_bias = any(value.name == ATTENTION_BIAS for value in session.get_inputs())
    if has_bias and for_chains:
        raise BundleError(f"{graph.name} is for chains but has the input {ATTENTION_BIAS}; do not use this bundle")
    if not has_bias and not for_chains:
        raise BundleError(f"{graph.name} is for trees but lacks the input {ATTENTION_BIAS}; do not use this bundle")


def check_dimensions(
    session: Session,
    graph: Path,
    cache: CacheShape,
    output_sizes: Mapping[str, int],
    *,
    first_layer: int = 0,
    remedy: str = "export the bundle again",
) -> None:
    """Refuse a graph that is not the one that the manifest describes.

    Args:
        session: session of the graph.
        graph: path of the ONNX file.
        cache: dimensions of its blocks by the manifest.
        output_sizes: length of the last axis by name of the output.
        first_layer: number of the first block in the graph's names.
        remedy: what to do about it.

    Raises:
        BundleError: a dimension is another one.
    """
    shapes = {value.name: value.shape for value in session.get_outputs()}
    values = [*shapes.get(present(first_layer, VALUE), ()), None, None, None, None]
    found = {
        "num_layers": sum(map(is_present, shapes)) // 2,
        "num_kv_heads": values[1],
        "head_size": values[3],
        **{name: shapes[name][-1] if shapes.get(name) else None for name in output_sizes},
    }
    stated = {
        "num_layers": cache.num_layers,
        "num_kv_heads": cache.num_kv_heads,
        "head_size": cache.head_size,
        **output_sizes,
    }
    for name, size in stated.items():
        if found[name] != size:
            raise BundleError(f"{graph.name} has {name} {found[name]}, but the manifest says {size}; {remedy}")


def feature_size(session: Session, graph: Path) -> int:
    """F, the width of the features that a graph with taps gives.

    Raises:
        BundleError: the graph gives none.
    """
    shapes = {value.name: value.shape for value in session.get_outputs()}
    shape = shapes.get(DRAFTER_FEATURES)
    size = shape[-1] if shape else None
    if not isinstance(size, int):
        raise BundleError(f"{graph.name} gives no {DRAFTER_FEATURES}; attach the drafter again")
    return size


def missing_library(graph: Path) -> str:
    """Why a native graph does not run here, in one line."""
    return f"{graph.name} needs this package's library of operators; {kernels.why_missing()}"
