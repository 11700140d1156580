"""What passes have in common that rewrite one node at a time, and those that read the weights of products.

It knows no operators but those of the trace.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dovetail_ort_export.passes.editing import find, input_of


class NodePass(ir.passes.InPlacePass):
    """A pass that rewrites nodes one by one, and leaves none that it is for.

    Attributes:
        operators: types of those nodes, in the order in which they are rewritten.
    """

    operators: tuple[str, ...]

    def _is_for(self, node: ir.Node) -> bool:  # noqa: ARG002  most are for all of their types
        """Whether a node of these types is to be rewritten."""
        return True

    @abstractmethod
    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        """Change the node, or put something else in its place."""

    def _found(self, model: ir.Model) -> Iterator[ir.Node]:
        """Nodes to rewrite, in order; what is rewritten meanwhile may change which of the later ones they are."""
        for op_type in self.operators:
            for node in find(model, op_type):
                if self._is_for(node):
                    yield node

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every node, and remove what nothing uses any more."""
        modified = False
        for node in self._found(model):
            self._rewrite(model, node)
            modified = True
        if modified:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """No such node is left.

        Raises:
            PostconditionError: one is.
        """
        for node in self._found(model):
            raise ir.passes.PostconditionError(f"{node.op_type} {node.name} is left as it was")


class ProductPass(NodePass):
    """A pass that reads the weights of products, and so stands after bind-weights."""

    def requires(self, model: ir.Model) -> None:
        """Every product and the embedding have their weights.

        Raises:
            PreconditionError: one has none.
        """
        for op_type, index in (("Linear", 1), ("Embedding", 0)):
            for node in find(model, op_type):
                if input_of(node, index).const_value is None:
                    raise ir.passes.PreconditionError(
                        f"{node.name} has no weight; bind-weights stands before what packs or lowers"
                    )


class Lowering(ProductPass):
    """A pass that makes operators of a number format of every `Linear` and `Embedding`."""

    operators = ("Linear", "Embedding")

    @abstractmethod
    def _product(self, model: ir.Model, node: ir.Node) -> Sequence[ir.Node]:
        """What takes the place of a `Linear`, in order; the last node's first output is the result."""

    @abstractmethod
    def _embedding(self, model: ir.Model, node: ir.Node) -> Sequence[ir.Node]:
        """What takes the place of an `Embedding`, in order; the last node's first output is the result."""

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        new = self._product(model, node) if node.op_type == "Linear" else self._embedding(model, node)
        new[-1].name = node.name
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], new, [node.outputs[0]], [new[-1].outputs[0]])
