"""Find, read and replace parts of a graph by hand, for passes that rewrite one node at a time.

onnx-ir types almost everything as optional; the accessors here are for graphs where the part is known to be there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dovetail_ort_export.source.weights import NamedWeights
from dovetail_ort_runtime.arrays import FloatArray

# Of the operators that are not ONNX's own.
_DOMAINS: Final = {
    **dict.fromkeys(("Weight", "Linear", "Embedding"), "dovetail"),
    **dict.fromkeys(("GroupQueryAttention", "SkipSimplifiedLayerNormalization"), "com.microsoft"),
}


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
        """Put something else in its place, or change it."""

    def _found(self, model: ir.Model) -> Iterator[ir.Node]:
        return (node for op_type in self.operators for node in find(model, op_type) if self._is_for(node))

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
        """No such node is left."""
        for node in self._found(model):
            raise ir.passes.PostconditionError(f"{node.op_type} {node.name} is left as it was")


def find(model: ir.Model, op_type: str) -> Iterator[ir.Node]:
    """Nodes of one operator in graph order; the graph may change meanwhile."""
    domain = _DOMAINS.get(op_type, "")
    return (node for node in list(model.graph) if node.op_type == op_type and node.domain == domain)


def by_name(values: Iterable[ir.Value]) -> dict[str, ir.Value]:
    """A graph's inputs or outputs by their names."""
    return {str(value.name): value for value in values}


def input_of(node: ir.Node, index: int) -> ir.Value:
    """Input `index` of a node, which is connected."""
    value = node.inputs[index]
    assert value is not None, f"{node.name} must have input {index}"
    return value


def producer_of(value: ir.Value) -> ir.Node:
    """The node that computes `value`, no input or initializer of the graph."""
    node = value.producer()
    assert node is not None, f"{value.name} must be computed by a node"
    return node


def only_reader(value: ir.Value) -> ir.Node | None:
    """The node that alone reads `value`, which is no output of the graph; else None."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """The numbers of the initializer `value`."""
    assert value.const_value is not None, f"{value.name} must be an initializer"
    return value.const_value


def initializer(model: ir.Model, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """The initializer `name`, registered with `tensor` unless the graph has it already."""
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    value = ir.val(name, const_value=tensor)
    model.graph.register_initializer(value)
    return value


def constant(model: ir.Model, name: str, values: ArrayLike) -> ir.Value:
    """The initializer `name` with these values, integers in int64."""
    return initializer(model, name, ir.tensor(np.array(values, order="C"), name=name))


def lazy_weight(weights: NamedWeights, name: str) -> ir.LazyTensor:
    """The tensor of the weight `name`, read when the graph is written."""
    return lazy_tensor(name, lambda: weights[name], weights.shape(name))


def derived(
    model: ir.Model,
    weight: ir.Value,
    suffix: str,
    compute: Callable[[FloatArray], NDArray[Any]],
    shape: Sequence[int],
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> ir.Value:
    """The initializer, named after `weight`, that `compute` makes of its float32 numbers."""
    tensor = tensor_of(weight)
    name = f"{weight.name}_{suffix}"
    return initializer(model, name, lazy_tensor(name, lambda: compute(tensor.numpy()), shape, dtype))


def lazy_tensor(
    name: str, compute: Callable[[], NDArray[Any]], shape: Sequence[int], dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.LazyTensor:
    """A tensor whose values are computed each time the graph is written, and not kept."""
    return ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(compute())), dtype=dtype, shape=ir.Shape(shape), name=name
    )


def label(new: Sequence[ir.Node], name: str) -> None:
    """Name nodes and their outputs after `name`, as the tracer names its own."""
    for node in new:
        node.name = f"{name}/{node.op_type}"
        for index, output in enumerate(node.outputs):
            output.name = f"{node.name}_output_{index}"
