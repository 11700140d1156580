"""What the passes over products have in common: weights that they can read, and nodes put in the place of each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import onnx_ir as ir

from dovetail_ort_export.passes import nodes


class ProductPass(nodes.NodePass):
    """A pass that reads the weights of products, and so stands after bind-weights."""

    def requires(self, model: ir.Model) -> None:
        """Every product and the embedding have their weights."""
        for op_type, index in (("Linear", 1), ("Embedding", 0)):
            for node in nodes.find(model, op_type):
                if nodes.input_of(node, index).const_value is None:
                    raise ir.passes.PreconditionError(
                        f"{node.name} has no weight; bind-weights stands before what packs or lowers"
                    )


class Lowering(ProductPass):
    """A pass that makes operators of a number format of every `Linear` and `Embedding`."""

    operators = ("Linear", "Embedding")

    @abstractmethod
    def _product(self, model: ir.Model, node: ir.Node) -> Sequence[ir.Node]:
        """What takes the place of a `Linear`, in order; the last one's first output is the result."""

    @abstractmethod
    def _embedding(self, model: ir.Model, node: ir.Node) -> Sequence[ir.Node]:
        """What takes the place of an `Embedding`, likewise."""

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        new = (self._product if node.op_type == "Linear" else self._embedding)(model, node)
        new[-1].name = node.name
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], new, [node.outputs[0]], [new[-1].outputs[0]])
