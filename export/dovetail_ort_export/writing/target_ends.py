"""What a drafter shares with its target, read back from a bundle: embedding, head and rotary angles, in float32.

From a native graph, the weights of both are unpacked. From a portable graph they are computed, so that every number
format can be read: the embedding is run over all token ids, and the head, which is linear, over the identity matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dovetail_ort_export.options import MAX_ROWS
from dovetail_ort_export.passes.editing import by_name, input_of, producer_of, tensor_of
from dovetail_ort_export.passes.score_rows import SCORED_STATES
from dovetail_ort_export.quantization.packed_weights import unpack_weight
from dovetail_ort_export.writing.graph_file import load_graph
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.formats import NATIVE
from dovetail_ort_runtime.bundle.graph_names import COS_TABLE, HIDDEN_STATES, INPUT_IDS, LOGITS, SIN_TABLE
from dovetail_ort_runtime.bundle.native_layout import EMBEDDING, NORM, NORM_PRODUCT
from dovetail_ort_runtime.engine.session import open_session
from dovetail_ort_runtime.kernels import OPERATOR_DOMAIN
from dovetail_ort_runtime.machine.processor import usable_cores


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TargetEnds:
    """Parts of a target.

    Attributes:
        embedding: (V, E) float32.
        head: (V, E) float32; logits are hidden states times its transpose.
        cos: (max_context, D / 2) float32, cosines of the rotary angles by position.
        sin: (max_context, D / 2) float32, sines of the rotary angles by position.
        norm_epsilon: number that the target's norms add to the mean square.
    """

    embedding: FloatArray
    head: FloatArray
    cos: FloatArray
    sin: FloatArray
    norm_epsilon: float


def read_target_ends(bundle: Bundle) -> TargetEnds:
    """Embedding, head and rotary angles of a bundle's target.

    Raises:
        InputError: the target's graph is none that export writes.
    """
    entry = bundle.manifest.target
    model = load_graph(bundle.path(entry.graph))
    return _native_ends(model) if entry.format == NATIVE else _portable_ends(bundle, model)


def _portable_ends(bundle: Bundle, model: ir.Model) -> TargetEnds:
    entry = bundle.manifest.target
    front = model if entry.front_graph is None else load_graph(bundle.path(entry.front_graph))
    norm = next(node for node in front.graph if node.op_type == "SimplifiedLayerNormalization")
    embedded = str(input_of(norm, 0).name)
    embedding = _run(front, {INPUT_IDS: np.arange(entry.vocabulary_size)[None]}, embedded)
    identity = np.eye(entry.hidden_size, dtype=np.float32)[None]
    chooses_rows = any(node.outputs[0].name == SCORED_STATES for node in model.graph)
    states = SCORED_STATES if chooses_rows else HIDDEN_STATES
    head = _run(model, {states: identity}, LOGITS)
    return TargetEnds(
        embedding=embedding,
        head=np.ascontiguousarray(head.T),
        cos=_constant(model, COS_TABLE),
        sin=_constant(model, SIN_TABLE),
        norm_epsilon=norm.attributes["epsilon"].as_float(),
    )


def _native_ends(model: ir.Model) -> TargetEnds:
    embedding = next(node for node in model.graph if (node.domain, node.op_type) == (OPERATOR_DOMAIN, EMBEDDING))
    norm = next(node for node in model.graph if node.op_type in (NORM, NORM_PRODUCT))
    return TargetEnds(
        embedding=_unpacked(embedding),
        head=_unpacked(producer_of(by_name(model.graph.outputs)[LOGITS])),
        cos=_constant(model, COS_TABLE),
        sin=_constant(model, SIN_TABLE),
        norm_epsilon=norm.attributes["epsilon"].as_float(),
    )


def _unpacked(node: ir.Node) -> FloatArray:
    """The weight (N, K) of a native Embedding or Product in 8 bits."""
    codes = tensor_of(input_of(node, 1)).numpy()
    scales = tensor_of(input_of(node, 2)).numpy()
    has_factors = node.attributes["group"].as_int() > 0
    factors = tensor_of(input_of(node, -1)).numpy() if has_factors else None
    return unpack_weight(codes, scales, node.attributes["inputs"].as_int(), factors)


def _run(model: ir.Model, inputs: Mapping[str, NDArray[Any]], output: str) -> FloatArray:
    """Output rows (n, width) float32 of the part of the graph between some values, for inputs of (1, n, ...)."""
    part = ir.Model(ir.convenience.extract(model.graph, list(inputs), [output]), ir_version=model.ir_version)
    num_rows = len(next(iter(inputs.values()))[0])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "part.onnx"
        ir.save(part, path, external_data="part.onnx_data")
        session = open_session(path, usable_cores())
        chunks = []
        for start in range(0, num_rows, MAX_ROWS):
            chunk = {name: rows[:, start : start + MAX_ROWS] for name, rows in inputs.items()}
            (outputs,) = session.run([output], chunk)
            chunks.append(outputs[0])
    result: FloatArray = np.concatenate(chunks).astype(np.float32, copy=False)
    return result


def _constant(model: ir.Model, name: str) -> FloatArray:
    return tensor_of(model.graph.initializers[name]).numpy()
