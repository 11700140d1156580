"""Products and embedding in float32."""

from __future__ import annotations

import onnx_ir as ir

from dovetail_ort_export.passes import nodes


class LowerFloat(ir.passes.InPlacePass):
    """`Linear` -> MatMul with the weight transposed; `Embedding` -> Gather.

    A weight that something else reads too (a tied head) keeps its layout and is transposed by a node, which ONNX
    Runtime folds at load: on disk it stands once.
    """

    def requires(self, model: ir.Model) -> None:
        """Every product has its weight."""
        nodes.check_weights(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every product and the embedding."""
        modified = nodes.lower(
            model,
            product=lambda node: _product(model, node),
            embedding=lambda node: [ir.node("Gather", node.inputs, {"axis": 0})],
        )
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """Nothing is left to lower."""
        nodes.check_lowered(model)


def _product(model: ir.Model, node: ir.Node) -> list[ir.Node]:
    x, value = nodes.input_of(node, 0), nodes.input_of(node, 1)
    if len(value.uses()) > 1:
        transpose = ir.node("Transpose", [value], {"perm": [1, 0]})
        return [transpose, ir.node("MatMul", [x, transpose.outputs[0]])]
    weight = nodes.weight_of(value)
    tensor = nodes.lazy_tensor(lambda: weight.read().T, weight.shape[::-1])
    return [ir.node("MatMul", [x, nodes.initializer(model, f"{weight.name}_transposed", tensor)])]
