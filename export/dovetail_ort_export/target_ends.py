"""What a drafter shares with its target, read back from a bundle: embedding, head and rotary angles, in float32.

Both ends are asked for what they do rather than for how they store it, so every number format is read alike: the
embedding is run over all token ids, and the head, a linear map, over the identity.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dovetail_ort_export.graph_file import load_graph
from dovetail_ort_export.operators import COS_CACHE, SIN_CACHE
from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.score_rows import SCORED_STATES
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.environment import usable_cores
from dovetail_ort_runtime.session import open_session

_ROWS: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TargetEnds:
    """Parts of a target.

    Attributes:
        embedding: (V, E) float32, in the model's own basis.
        head: (V, E) float32; logits are hidden states times its transpose.
        cos: (max_context, D / 2) float32, rotary angles by position.
        sin: likewise.
        norm_epsilon: of the target's norms.
    """

    embedding: FloatArray
    head: FloatArray
    cos: FloatArray
    sin: FloatArray
    norm_epsilon: float


def read_target_ends(bundle: Bundle) -> TargetEnds:
    """Embedding, head and rotary angles of a bundle's target."""
    entry = bundle.manifest.target
    path = bundle.path(entry.graph)
    model = load_graph(path)
    front = model if entry.front_graph is None else load_graph(path.with_name(entry.front_graph))
    norm = next(node for node in front.graph if node.op_type == "SimplifiedLayerNormalization")
    embedded = str(nodes.input_of(norm, 0).name)
    embedding = _run(front, {"input_ids": np.arange(entry.vocabulary_size)[None]}, embedded)
    identity = np.eye(entry.hidden_size, dtype=np.float32)[None]
    chosen = any(node.outputs[0].name == SCORED_STATES for node in model.graph)
    states = SCORED_STATES if chosen else "hidden_states"
    # Without a choice the row format takes the number of rows from the token ids, and nothing else of them.
    head = _run(model, {states: identity, "input_ids": np.zeros((1, entry.hidden_size), np.int64)}, "logits")
    return TargetEnds(
        embedding=_in_own_basis(model, embedding),
        head=np.ascontiguousarray(head.T),
        cos=_constant(model, COS_CACHE),
        sin=_constant(model, SIN_CACHE),
        norm_epsilon=norm.attributes["epsilon"].as_float(),
    )


def _run(model: ir.Model, inputs: Mapping[str, NDArray[Any]], output: str) -> FloatArray:
    """Output rows (n, width) of the part of the graph between some values, for inputs of (1, n, ...)."""
    part = ir.Model(ir.convenience.extract(model.graph, list(inputs), [output]), ir_version=model.ir_version)
    num_rows = len(next(iter(inputs.values()))[0])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "part.onnx"
        ir.save(part, path, external_data="part.onnx_data")
        session = open_session(path, usable_cores())
        chunks = [
            session.run([output], {name: rows[:, start : start + _ROWS] for name, rows in inputs.items()})[0][0]
            for start in range(0, num_rows, _ROWS)
        ]
    result: FloatArray = np.concatenate(chunks).astype(np.float32, copy=False)
    return result


def _in_own_basis(model: ir.Model, rows: FloatArray) -> FloatArray:
    """Undo the rotation of the residual stream as `passes.equalize` does, where there is one."""
    if "final_rotation.left" not in model.graph.initializers:
        return rows
    left, right = (_constant(model, f"final_rotation.{side}") for side in ("left", "right"))
    turned = left @ rows.reshape(-1, len(left), len(right)) @ right
    own: FloatArray = turned.reshape(rows.shape).astype(np.float32)
    return own


def _constant(model: ir.Model, name: str) -> FloatArray:
    return nodes.tensor_of(model.graph.initializers[name]).numpy()
