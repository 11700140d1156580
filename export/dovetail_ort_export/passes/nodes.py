"""Find and replace nodes by operator, for passes that rewrite a node by itself."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def find(model: ir.Model, op_type: str, domain: str) -> Iterator[ir.Node]:
    """Nodes of one operator in graph order; the graph may change meanwhile."""
    return (node for node in list(model.graph) if node.op_type == op_type and node.domain == domain)


def replace(model: ir.Model, old: ir.Node, new: list[ir.Node]) -> None:
    """Put `new`, in order, in the place of `old`; the last one's first output takes over the name and the readers."""
    new[-1].name = old.name
    ir.convenience.replace_nodes_and_values(model.graph, old, [old], new, [old.outputs[0]], [new[-1].outputs[0]])


def label(new: list[ir.Node], name: str) -> None:
    """Name nodes and their outputs after `name`, as the tracer names its own."""
    for node in new:
        node.name = f"{name}/{node.op_type}"
        for index, output in enumerate(node.outputs):
            output.name = f"{node.name}_output_{index}"


def initializer(model: ir.Model, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """The initializer `name`, registered with `tensor` unless the graph has it already."""
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def drop_unused_initializers(model: ir.Model) -> None:
    """Remove the initializers that no node reads."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            del model.graph.initializers[name]
