"""The weights of an equal model that is easier to quantise, and the rotations that its two ends need."""

import onnx_ir as ir

from dovetail_ort_export.equalization import Rotation
from dovetail_ort_export.passes import OfExport, nodes
from dovetail_ort_runtime.arrays import FloatArray


class Equalize(OfExport, ir.passes.InPlacePass):
    """Rotate the residual stream and move ranges from activations into weights, all folded into the weights.

    A block norm's weight learns the largest magnitude that the norm's output had, so that a lowering can quantise that
    output by a constant. It is for bound weights that are neither packed nor lowered. Where the export has no equal
    model, the graph is left as it is.
    """

    def requires(self, model: ir.Model) -> None:
        """Every weight that changes stands in the graph by its own name."""
        weights = self._context.equalized
        for name in () if weights is None else weights.edited_names:
            if name not in model.graph.initializers:
                raise ir.passes.PreconditionError(
                    f"no weight {name} in the graph; equalize stands after bind-weights, before what packs or lowers"
                )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the weights and rotate the ends."""
        weights = self._context.equalized
        if weights is None:
            return ir.passes.PassResult(model, False)
        for name in weights.edited_names:
            model.graph.initializers[name].const_value = nodes.lazy_weight(weights, name)
        for name, largest in weights.ranges.items():
            model.graph.initializers[name].meta[nodes.LARGEST_OUTPUT] = largest
        rotate_ends(model, weights.rotation)
        return ir.passes.PassResult(model, True)


def rotate_ends(model: ir.Model, rotation: Rotation) -> None:
    """Rotate back what the final norm reads and rotate what the head reads.

    So `hidden_states` are the model's own; the head's weight, tied or not, is rotated as the embedding is.
    """
    outputs = nodes.by_name(model.graph.outputs)
    norm, head = (nodes.producer_of(outputs[name]) for name in ("hidden_states", "logits"))
    _rotate_input(model, norm, rotation.left, rotation.right.T, "final_rotation")
    _rotate_input(model, head, rotation.left.T, rotation.right, "head_rotation")


def _rotate_input(model: ir.Model, reader: ir.Node, left: FloatArray, right: FloatArray, name: str) -> None:
    """Input 0 of `reader`, (B, S, E) seen as (B, S, a, b), becomes `left @ x @ right`."""
    rows, columns = len(left), len(right)
    by_factor = nodes.constant(model, f"{name}.by_factor", [0, 0, rows, columns])
    flat = nodes.constant(model, f"{name}.flat", [0, 0, rows * columns])
    left_value = nodes.constant(model, f"{name}.left", left)
    right_value = nodes.constant(model, f"{name}.right", right)
    split = ir.node("Reshape", [reader.inputs[0], by_factor])
    across = ir.node("MatMul", [split.outputs[0], right_value])
    down = ir.node("MatMul", [left_value, across.outputs[0]])
    merge = ir.node("Reshape", [down.outputs[0], flat])
    new = {"split": split, "across": across, "down": down, "merge": merge}
    for part, node in new.items():
        nodes.label([node], f"{name}/{part}")
    model.graph.insert_before(reader, list(new.values()))
    reader.replace_input_with(0, merge.outputs[0])
