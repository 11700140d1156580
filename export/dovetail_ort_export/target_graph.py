"""A transformers model as a target graph in one number format, its weights still unread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
from tqdm import tqdm

from dovetail_ort_export.equalization import EqualizedWeights
from dovetail_ort_export.passes.bind_weights import BindWeights
from dovetail_ort_export.passes.fuse_skip_norm import FuseSkipNorm
from dovetail_ort_export.passes.keep_blocks import KeepBlocks
from dovetail_ort_export.passes.lower_float import LowerFloat
from dovetail_ort_export.passes.lower_half import LowerHalf
from dovetail_ort_export.passes.lower_int8_blocks import LowerInt8Blocks
from dovetail_ort_export.passes.lower_int8_rows import LowerInt8Rows
from dovetail_ort_export.passes.pack_gate_up import PackGateUp
from dovetail_ort_export.passes.pack_qkv import PackQkv
from dovetail_ort_export.passes.rotate_ends import RotateEnds
from dovetail_ort_export.tracing import trace_target
from dovetail_ort_export.weights import Weights

# Offsets at whole pages let the runtime map the weights instead of reading them.
_PAGE_BYTES: Final = 4096


def float_target(model: Any, weights: Weights | EqualizedWeights, first_block: int = 0) -> ir.Model:
    """fp32; from a block on, as all of these."""
    return _target(model, weights, LowerFloat(), first_block)


def int8_block_target(model: Any, weights: Weights, first_block: int = 0) -> ir.Model:
    """8-bit weights in blocks of 32, activations quantised likewise by the kernel."""
    return _target(model, weights, LowerInt8Blocks(), first_block)


def int8_row_target(model: Any, weights: Weights | EqualizedWeights, first_block: int = 0) -> ir.Model:
    """8-bit weights and activations, a scale for each output and each row; meant for equalised weights."""
    ranges: Mapping[str, float] = weights.ranges if isinstance(weights, EqualizedWeights) else {}
    return _target(model, weights, LowerInt8Rows(ranges), first_block)


def half_front(model: Any, weights: Weights | EqualizedWeights, num_blocks: int) -> ir.Model:
    """Embedding and first blocks in fp16, for CUDA."""
    return _target(model, weights, LowerHalf(), 0, num_blocks)


def _target(
    model: Any,
    weights: Weights | EqualizedWeights,
    lower: ir.passes.InPlacePass,
    first_block: int = 0,
    end_block: int | None = None,
) -> ir.Model:
    cut = [KeepBlocks(first_block, end_block)] if first_block or end_block else []
    rotate = [RotateEnds(weights.rotation)] if isinstance(weights, EqualizedWeights) else []
    graph = trace_target(model)
    for graph_pass in (BindWeights(weights), *rotate, *cut, PackQkv(), PackGateUp(), FuseSkipNorm(), lower):
        graph = graph_pass(graph).model  # ir.passes.Sequential would hide a SourceError in its own
    del graph.opset_imports["dovetail"]  # all its operators are lowered
    return graph


def save_graph(graph: ir.Model, path: Path) -> None:
    """Write graph and weights, computing each weight as it is written; a bar shows the progress on a terminal."""
    with tqdm(total=len(graph.graph.initializers), unit=" tensors", leave=False, disable=None) as bar:
        ir.save(
            graph,
            path,
            external_data=f"{path.name}_data",
            alignment=_PAGE_BYTES,
            callback=lambda tensor, info: bar.update() and None,  # noqa: ARG005  onnx-ir's signature
        )
