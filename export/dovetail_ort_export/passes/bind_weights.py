"""Give a skeleton graph its weights: `dovetail::Weight` nodes become initializers."""

from __future__ import annotations

import onnx_ir as ir

from dovetail_ort_export.passes.base import NodePass
from dovetail_ort_export.passes.context import ExportPass
from dovetail_ort_export.passes.editing import initializer, lazy_tensor


class BindWeights(ExportPass, NodePass):
    """Replaces each `Weight(name)` by an initializer that reads the weight when the graph is written.

    Two names of one tied parameter become one initializer.
    """

    operators = ("Weight",)

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        weights = self._context.weights
        name = weights.canonical_name(node.attributes["name"].as_string())
        tensor = lazy_tensor(name, lambda: weights[name], weights.shape(name))
        node.outputs[0].replace_all_uses_with(initializer(model, name, tensor))
