"""Find, read and replace parts of a graph by hand, for passes that rewrite one node at a time.

onnx-ir types almost everything as optional; the accessors here are for graphs where the part is known to be there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dovetail_ort_runtime.arrays import FloatArray

# Metadata of a norm's weight, not written to the file: the largest magnitude that the norm's output had.
LARGEST_OUTPUT: Final = "dovetail.largest_output"

Replacement = Callable[[ir.Node], Sequence[ir.Node]]


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """An initializer that a product or the embedding reads.

    Attributes:
        name: in the graph.
        shape: of the tensor.
        read: gives the float32 array, computed when it is called.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], FloatArray]


def find(model: ir.Model, op_type: str, domain: str) -> Iterator[ir.Node]:
    """Nodes of one operator in graph order; the graph may change meanwhile."""
    return (node for node in list(model.graph) if node.op_type == op_type and node.domain == domain)


def input_of(node: ir.Node, index: int) -> ir.Value:
    """Input `index` of a node, which is connected."""
    value = node.inputs[index]
    assert value is not None, f"{node.name} must have input {index}"
    return value


def producer_of(value: ir.Value) -> ir.Node:
    """The node that computes `value`, which is neither an input nor an initializer of the graph."""
    node = value.producer()
    assert node is not None, f"{value.name} must be computed by a node"
    return node


def values_behind(model: ir.Model, value: ir.Value | None) -> set[ir.Value]:
    """Every value that `value` leads to, itself included; none if it is None."""
    found = set() if value is None else {value}
    for node in model.graph:
        if not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def weight_of(value: ir.Value) -> Weight:
    """The initializer `value`."""
    tensor, shape = value.const_value, value.shape
    assert tensor is not None, f"{value.name} must be an initializer"
    assert shape is not None
    return Weight(str(value.name), tuple(shape.numpy()), tensor.numpy)


def initializer(model: ir.Model, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """The initializer `name`, registered with `tensor` unless the graph has it already."""
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def constant(model: ir.Model, name: str, values: ArrayLike) -> ir.Value:
    """The initializer `name` with these values, integers in int64."""
    return initializer(model, name, ir.tensor(np.array(values, order="C"), name=name))


def lazy_tensor(
    compute: Callable[[], NDArray[Any]], shape: Sequence[int], dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.LazyTensor:
    """A tensor whose values are computed each time the graph is written, and not kept."""
    return ir.LazyTensor(lambda: ir.Tensor(np.ascontiguousarray(compute())), dtype=dtype, shape=ir.Shape(shape))


def label(new: Sequence[ir.Node], name: str) -> None:
    """Name nodes and their outputs after `name`, as the tracer names its own."""
    for node in new:
        node.name = f"{name}/{node.op_type}"
        for index, output in enumerate(node.outputs):
            output.name = f"{node.name}_output_{index}"


def replace(model: ir.Model, old: ir.Node, new: Sequence[ir.Node]) -> None:
    """Put `new`, in order, in the place of `old`; the last one's first output takes over the name and the readers."""
    new[-1].name = old.name
    ir.convenience.replace_nodes_and_values(model.graph, old, [old], new, [old.outputs[0]], [new[-1].outputs[0]])


def lower(model: ir.Model, product: Replacement, embedding: Replacement) -> bool:
    """Put what these functions make of each `Linear` and each `Embedding` in its place; whether there was any."""
    modified = False
    for op_type, replacement in (("Linear", product), ("Embedding", embedding)):
        for node in find(model, op_type, "dovetail"):
            replace(model, node, replacement(node))
            modified = True
    if modified:
        RemoveUnusedNodesPass()(model)  # and their weights, which are stored in another form now
    return modified


def check_lowered(model: ir.Model) -> None:
    """The postcondition of a pass that lowers.

    Raises:
        PostconditionError: a product or an embedding is left.
    """
    check_none_left(model, "Linear", "dovetail")
    check_none_left(model, "Embedding", "dovetail")


def check_none_left(model: ir.Model, op_type: str, domain: str) -> None:
    """The postcondition of a pass that replaces all nodes of one operator.

    Raises:
        PostconditionError: one is left.
    """
    if left := next(find(model, op_type, domain), None):
        raise ir.passes.PostconditionError(f"{op_type} {left.name} is left in the graph")


def check_weights(model: ir.Model) -> None:
    """The precondition of a pass that packs or lowers products: it can read their weights.

    Raises:
        PreconditionError: one is not an initializer.
    """
    for op_type, index in (("Linear", 1), ("Embedding", 0)):
        for node in find(model, op_type, "dovetail"):
            if input_of(node, index).const_value is None:
                raise ir.passes.PreconditionError(
                    f"{node.name} has no weight; bind-weights stands before what packs or lowers"
                )
