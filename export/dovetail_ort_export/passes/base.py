"""Bases of passes that rewrite one node at a time, and of passes that read the weights of products.

It knows no operators but those of the trace.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dovetail_ort_export.passes.editing import find, input_of


class NodePass(ir.passes.InPlacePass):
    """A pass that rewrites all nodes of certain types, one by one.

    Attributes:
        operators: operator types of the nodes, in the order in which they are rewritten.
    """

    operators: tuple[str, ...]

    def _is_for(self, node: ir.Node) -> bool:  # noqa: ARG002  most passes rewrite all of them
        """Whether a node of these types is to be rewritten."""
        return True

    @abstractmethod
    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        """Change the node, or replace it by other nodes."""

    def _found(self, model: ir.Model) -> Iterator[ir.Node]:
        """Nodes to rewrite, in order; rewriting one of them may add or remove later ones."""
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
        """Check that no node of these types is left.

        Raises:
            PostconditionError: a node is left.
        """
        for node in self._found(model):
            raise ir.passes.PostconditionError(f"{node.op_type} {node.name} is left as it was")


class ProductPass(NodePass):
    """A pass that reads the weights of products, and so must come after bind-weights."""

    def requires(self, model: ir.Model) -> None:
        """Check that every product and the embedding have their weights.

        Raises:
            PreconditionError: a product or the embedding has no weight.
        """
        for op_type, index in (("Linear", 1), ("Embedding", 0)):
            for node in find(model, op_type):
                if input_of(node, index).const_value is None:
                    raise ir.passes.PreconditionError(
                        f"{node.name} has no weight; bind-weights must come before passes that pack or lower"
                    )


class Lowering(ProductPass):
    """A pass that turns every `Linear` and `Embedding` into operators of a number format."""

    operators = ("Linear", "Embedding")

    @abstractmethod
    def _product(self, model: ir.Model, node: ir.Node) -> Sequence[ir.Node]:
        """The nodes that replace a `Linear`, in order; the last node's first output is the result."""

    @abstractmethod
    def _embedding(self, model: ir.Model, node: ir.Node) -> Sequence[ir.Node]:
        """The nodes that replace an `Embedding`, in order; the last node's first output is the result."""

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        new = self._product(model, node) if node.op_type == "Linear" else self._embedding(model, node)
        new[-1].name = node.name
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], new, [node.outputs[0]], [new[-1].outputs[0]])
