"""Give the skeleton its weights: `dovetail::Weight` nodes become initializers."""

from __future__ import annotations

import onnx_ir as ir

from dovetail_ort_export.passes import OfExport, nodes


class BindWeights(OfExport, ir.passes.InPlacePass):
    """Replaces each `Weight(name)` by an initializer that reads the weight when the graph is written.

    Two names of one tied parameter become one initializer.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Bind every name."""
        weights, modified = self._context.weights, False
        for node in nodes.find(model, "Weight", "dovetail"):
            name = weights.canonical_name(node.attributes["name"].as_string())
            bound = nodes.initializer(model, name, nodes.lazy_weight(weights, name))
            node.outputs[0].replace_all_uses_with(bound)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)
