"""Several products of one input as one product with their weights stacked, for the passes that pack."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes import nodes


def pack(model: ir.Model, values: Sequence[ir.Value | None], name: str) -> ir.Value | None:
    """The values side by side along the last axis as one product, which stands before the first of theirs.

    None if they are not all products of the same input, all or none of them with a bias. The new weight is called after
    the first one, its last part replaced by `name`. The replaced nodes stay.
    """
    products = [product for value in values if (product := _product_behind(value)) is not None]
    linears = [linear for linear, _ in products]
    biases = [bias for _, bias in products if bias is not None]
    if len(linears) < len(values) or len(biases) not in (0, len(values)):
        return None
    if len({linear.inputs[0] for linear in linears}) > 1:
        return None
    weights = [nodes.input_of(linear, 1) for linear in linears]
    path = f"{str(weights[0].name).rsplit('.', 2)[0]}.{name}"
    new = [ir.node("Linear", [linears[0].inputs[0], _stacked(model, weights, f"{path}.weight")], domain="dovetail")]
    if biases:
        new.append(ir.node("Add", [new[0].outputs[0], _stacked(model, biases, f"{path}.bias")]))
    nodes.label(new, path)
    model.graph.insert_before(linears[0], new)
    return new[-1].outputs[0]


def _product_behind(value: ir.Value | None) -> tuple[ir.Node, ir.Value | None] | None:
    """The `Linear` that `value` comes from, with the bias added to it; None if it comes from something else."""
    node = None if value is None else value.producer()
    bias = None
    if node is not None and node.op_type == "Add":
        bias, node = node.inputs[1], nodes.input_of(node, 0).producer()
    return None if node is None or node.op_type != "Linear" else (node, bias)


def _stacked(model: ir.Model, parts: Sequence[ir.Value], name: str) -> ir.Value:
    tensors = [nodes.tensor_of(part) for part in parts]
    shapes = [tensor.shape.numpy() for tensor in tensors]
    shape = (sum(rows for rows, *_ in shapes), *shapes[0][1:])
    stacked = nodes.lazy_tensor(name, lambda: np.concatenate([tensor.numpy() for tensor in tensors]), shape)
    return nodes.initializer(model, name, stacked)
