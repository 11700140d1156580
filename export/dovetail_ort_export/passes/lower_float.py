"""Products and embedding in float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.lowering import Lowering


class LowerFloat(Lowering):
    """`Linear` -> MatMul with the weight transposed; `Embedding` -> Gather.

    A weight that something else reads too (a tied head) keeps its layout and is transposed by a node, which ONNX
    Runtime folds at load: on disk it stands once.
    """

    def _product(self, model: ir.Model, node: ir.Node) -> list[ir.Node]:
        x, weight = nodes.input_of(node, 0), nodes.input_of(node, 1)
        if len(weight.uses()) > 1:
            transpose = ir.node("Transpose", [weight], {"perm": [1, 0]})
            return [transpose, ir.node("MatMul", [x, transpose.outputs[0]])]
        shape = nodes.tensor_of(weight).shape.numpy()
        transposed = nodes.derived(model, weight, "transposed", np.transpose, shape[::-1])
        return [ir.node("MatMul", [x, transposed])]

    def _embedding(self, model: ir.Model, node: ir.Node) -> list[ir.Node]:  # noqa: ARG002  a lowering's signature
        return [ir.node("Gather", node.inputs, {"axis": 0})]
