"""The weights of an equal model that is easier to quantise, and the rotations that its two ends need."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from dovetail_ort_export.equalization import EqualizedWeights, Rotation
from dovetail_ort_export.passes import PassContext, nodes
from dovetail_ort_runtime.arrays import FloatArray


class Equalize(ir.passes.InPlacePass):
    """Rotate the residual stream and move ranges from activations into weights, all folded into the weights.

    A block norm's weight learns the largest magnitude that the norm's output had, so that a lowering can quantise that
    output by a constant. It is for bound weights that are neither packed nor lowered.

    Args:
        weights: of the equal model, or None to leave the graph as it is.
    """

    def __init__(self, weights: EqualizedWeights | None) -> None:
        super().__init__()
        self._weights = weights

    @classmethod
    def from_context(cls, context: PassContext) -> Equalize:
        """The pass of one export."""
        return cls(context.equalized)

    def requires(self, model: ir.Model) -> None:
        """Every weight that changes stands in the graph by its own name."""
        names = () if self._weights is None else self._weights.edited_names
        if missing := [name for name in names if name not in model.graph.initializers]:
            raise ir.passes.PreconditionError(
                f"no weight {missing[0]} in the graph; equalize stands after bind-weights, before what packs or lowers"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the weights and rotate the ends."""
        weights = self._weights
        if weights is None:
            return ir.passes.PassResult(model, False)
        for name in weights.edited_names:
            value = model.graph.initializers[name]
            value.const_value = nodes.lazy_tensor(partial(weights.__getitem__, name), weights.shape(name))
            value.const_value.name = name
        for name, largest in weights.ranges.items():
            model.graph.initializers[name].meta[nodes.LARGEST_OUTPUT] = largest
        rotate_ends(model, weights.rotation)
        return ir.passes.PassResult(model, True)


def rotate_ends(model: ir.Model, rotation: Rotation) -> None:
    """Rotate back what the final norm reads and rotate what the head reads.

    So `hidden_states` are the model's own; the head's weight, tied or not, is rotated as the embedding is.
    """
    outputs = {str(output.name): output for output in model.graph.outputs}
    norm, head = (nodes.producer_of(outputs[name]) for name in ("hidden_states", "logits"))
    _rotate_input(model, norm, rotation.left, rotation.right.T, "final_rotation")
    _rotate_input(model, head, rotation.left.T, rotation.right, "head_rotation")


def _rotate_input(model: ir.Model, reader: ir.Node, left: FloatArray, right: FloatArray, name: str) -> None:
    """Input 0 of `reader`, (B, S, E) seen as (B, S, a, b), becomes `left @ x @ right`."""
    rows, columns = len(left), len(right)
    x = nodes.input_of(reader, 0)
    by_factor = nodes.constant(model, f"{name}.by_factor", [0, 0, rows, columns])
    flat = nodes.constant(model, f"{name}.flat", [0, 0, rows * columns])
    left_value, right_value = (
        nodes.constant(model, f"{name}.{side}", matrix) for side, matrix in (("left", left), ("right", right))
    )
    split = ir.node("Reshape", [x, by_factor])
    across = ir.node("MatMul", [split.outputs[0], right_value])
    down = ir.node("MatMul", [left_value, across.outputs[0]])
    merge = ir.node("Reshape", [down.outputs[0], flat])
    for part, node in (("split", split), ("across", across), ("down", down), ("merge", merge)):
        nodes.label([node], f"{name}/{part}")
    model.graph.insert_before(reader, [split, across, down, merge])
    reader.replace_input_with(0, merge.outputs[0])
