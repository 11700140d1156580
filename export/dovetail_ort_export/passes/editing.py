"""Find, read and replace parts of a graph by hand, for passes that rewrite one node at a time.

onnx-ir types almost everything as optional; the functions here are for parts that are known to be there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.kernels import OPERATOR_DOMAIN

# Of the operators of the trace, and of those that ONNX Runtime adds to ONNX.
SKELETON_DOMAIN: Final = "dovetail"
ONNXRUNTIME_DOMAIN: Final = "com.microsoft"
# Of the operators that are not ONNX's own.
_DOMAINS: Final = {
    "Weight": SKELETON_DOMAIN,
    "Linear": SKELETON_DOMAIN,
    "Embedding": SKELETON_DOMAIN,
    "GroupQueryAttention": ONNXRUNTIME_DOMAIN,
    "SkipSimplifiedLayerNormalization": ONNXRUNTIME_DOMAIN,
}


def find(model: ir.Model, op_type: str) -> Iterator[ir.Node]:
    """Nodes of one operator of the trace, in graph order; the graph may change while they are read."""
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
    """The only node that reads `value`; None if there are several, or if `value` is an output of the graph."""
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


def derived(
    model: ir.Model,
    weight: ir.Value,
    suffix: str,
    compute: Callable[[FloatArray], NDArray[Any]],
    shape: Sequence[int],
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> ir.Value:
    """An initializer that is computed from a weight when the graph is written.

    Args:
        model: model that gets the initializer, unless it has it already.
        weight: initializer with the float32 numbers.
        suffix: text that the new name has after the weight's name.
        compute: function from the weight's numbers to the new ones.
        shape: shape of the new numbers.
        dtype: number type of the new numbers.
    """
    tensor = tensor_of(weight)
    name = f"{weight.name}_{suffix}"
    return initializer(model, name, lazy_tensor(name, lambda: compute(tensor.numpy()), shape, dtype))


def lazy_tensor(
    name: str, compute: Callable[[], NDArray[Any]], shape: Sequence[int], dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.LazyTensor:
    """A tensor whose values are computed each time the graph is written, and not kept.

    Args:
        name: name of the tensor.
        compute: function that gives the values.
        shape: shape of the values.
        dtype: number type of the values.
    """
    return ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(compute())), dtype=dtype, shape=ir.Shape(shape), name=name
    )


def label(new: Sequence[ir.Node], name: str) -> None:
    """Name nodes and their outputs after `name`, as the tracer names its own."""
    for node in new:
        node.name = f"{name}/{node.op_type}"
        for index, output in enumerate(node.outputs):
            output.name = f"{node.name}_output_{index}"


def native_node(
    op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], num_outputs: int = 1
) -> ir.Node:
    """A node of this package's own operators; optional inputs at its end that are not connected are left out."""
    last = max(index for index, value in enumerate(inputs) if value is not None)
    return ir.node(op_type, inputs[: last + 1], attributes, domain=OPERATOR_DOMAIN, num_outputs=num_outputs)


def replace(model: ir.Model, old: Sequence[ir.Node], new: ir.Node, values: Sequence[ir.Value]) -> None:
    """Put `new` into the place of the last of `old`; its outputs take the place, name and type of `values`."""
    name = str(old[-1].name)
    new.name = f"{name.rpartition('/')[0] or name}/{new.op_type}"
    ir.convenience.replace_nodes_and_values(model.graph, old[-1], old, [new], values, new.outputs)
    RemoveUnusedNodesPass()(model)  # inputs of the removed nodes may now have a single reader
