"""Where the rotated residual stream ends: back to the model's own basis, and once more for the head."""

from __future__ import annotations

import onnx_ir as ir

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.rotation import Rotation
from dovetail_ort_runtime.arrays import FloatArray


class RotateEnds(ir.passes.InPlacePass):
    """Rotates back what the final norm reads and rotates what the head reads.

    So `hidden_states` are the model's own; the head's weight, tied or not, is rotated as the embedding is.

    Args:
        rotation: of the residual stream.
    """

    def __init__(self, rotation: Rotation) -> None:
        super().__init__()
        self._rotation = rotation

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert both rotations."""
        outputs = {str(output.name): output for output in model.graph.outputs}
        left, right = self._rotation.left, self._rotation.right
        norm = nodes.producer_of(outputs["hidden_states"])
        head = nodes.producer_of(outputs["logits"])
        _rotate_input(model, norm, left, right.T, "final_rotation")
        _rotate_input(model, head, left.T, right, "head_rotation")
        return ir.passes.PassResult(model, True)


def _rotate_input(model: ir.Model, reader: ir.Node, left: FloatArray, right: FloatArray, name: str) -> None:
    """Input 0 of `reader`, (B, S, E) seen as (B, S, a, b), becomes `left @ x @ right`."""
    rows, columns = len(left), len(right)
    x = nodes.input_of(reader, 0)
    by_factor = _constant(model, f"{name}.by_factor", [0, 0, rows, columns])
    flat = _constant(model, f"{name}.flat", [0, 0, rows * columns])
    left_value, right_value = (
        nodes.initializer(model, f"{name}.{side}", ir.tensor(matrix.copy(), name=f"{name}.{side}"))
        for side, matrix in (("left", left), ("right", right))
    )
    split = ir.node("Reshape", [x, by_factor])
    across = ir.node("MatMul", [split.outputs[0], right_value])
    down = ir.node("MatMul", [left_value, across.outputs[0]])
    merge = ir.node("Reshape", [down.outputs[0], flat])
    for part, node in (("split", split), ("across", across), ("down", down), ("merge", merge)):
        nodes.label([node], f"{name}/{part}")
    model.graph.insert_before(reader, [split, across, down, merge])
    reader.replace_input_with(0, merge.outputs[0])


def _constant(model: ir.Model, name: str, values: list[int]) -> ir.Value:
    return nodes.initializer(model, name, ir.tensor(values, dtype=ir.DataType.INT64, name=name))
