"""Give the skeleton its weights: `dovetail::Weight` nodes become initializers."""

from __future__ import annotations

import onnx_ir as ir

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.weights import Weights


class BindWeights(ir.passes.InPlacePass):
    """Replaces each `Weight(name)` by an initializer that reads the weight when the graph is written.

    Two names of one tied parameter become one initializer.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self._weights = weights

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Bind every name."""
        modified = False
        for node in nodes.find(model, "Weight", "dovetail"):
            name = self._weights.canonical_name(node.attributes["name"].as_string())
            value = nodes.initializer(model, name, self._tensor(name))
            node.outputs[0].replace_all_uses_with(value)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)

    def _tensor(self, name: str) -> ir.LazyTensor:
        shape = ir.Shape(self._weights.shape(name))
        return ir.LazyTensor(lambda: ir.Tensor(self._weights[name]), dtype=ir.DataType.FLOAT, shape=shape, name=name)
