"""Give the skeleton its weights: `dovetail::Weight` nodes become initializers."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from dovetail_ort_export.passes import PassContext, nodes
from dovetail_ort_export.weights import NamedWeights


class BindWeights(ir.passes.InPlacePass):
    """Replaces each `Weight(name)` by an initializer that reads the weight when the graph is written.

    Two names of one tied parameter become one initializer.
    """

    def __init__(self, weights: NamedWeights) -> None:
        super().__init__()
        self._weights = weights

    @classmethod
    def from_context(cls, context: PassContext) -> BindWeights:
        """The pass of one export."""
        return cls(context.weights)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Bind every name."""
        modified = False
        for node in nodes.find(model, "Weight", "dovetail"):
            name = self._weights.canonical_name(node.attributes["name"].as_string())
            tensor = nodes.lazy_tensor(partial(self._weights.__getitem__, name), self._weights.shape(name))
            node.outputs[0].replace_all_uses_with(nodes.initializer(model, name, tensor))
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """Every name is bound."""
        nodes.check_none_left(model, "Weight", "dovetail")
