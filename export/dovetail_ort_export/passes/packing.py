"""Several products of one input as one product with their weights stacked, for the passes that pack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes import nodes

# A `Linear`, and the bias added to it.
Product = tuple[ir.Node, ir.Value | None]


def products_behind(values: Sequence[ir.Value | None]) -> list[Product]:
    """What values come from if all are products of one input, all or none of them with a bias; else nothing."""
    products = [product for value in values if (product := _product_behind(value)) is not None]
    inputs = {linear.inputs[0] for linear, _ in products}
    biased = {bias is not None for _, bias in products}
    return products if len(products) == len(values) and len(inputs) == len(biased) == 1 else []


def normed_by_head(value: ir.Value | None) -> tuple[ir.Value | None, ir.Node | None]:
    """What the heads of queries or keys are before a norm by head (Qwen3), and that norm; `value` if there is none."""
    flat = None if value is None else value.producer()
    norm = None if flat is None or flat.op_type != "Reshape" else nodes.input_of(flat, 0).producer()
    if norm is None or norm.op_type != "SimplifiedLayerNormalization":
        return value, None
    by_head = nodes.input_of(norm, 0).producer()
    if by_head is None or by_head.op_type != "Reshape":
        return value, None
    return nodes.input_of(by_head, 0), norm


def pack(model: ir.Model, values: Sequence[ir.Value | None], name: str) -> ir.Value:
    """Values that come from products side by side along the last axis, as one product before the first of theirs.

    The new weight is called after the first one, its last part replaced by `name`. The replaced nodes stay.
    """
    products = products_behind(values)
    linears = [linear for linear, _ in products]
    biases = [bias for _, bias in products if bias is not None]
    weights = [nodes.input_of(linear, 1) for linear in linears]
    path = f"{str(weights[0].name).rsplit('.', 2)[0]}.{name}"
    new = [ir.node("Linear", [linears[0].inputs[0], _stacked(model, weights, f"{path}.weight")], domain="dovetail")]
    if biases:
        new.append(ir.node("Add", [new[0].outputs[0], _stacked(model, biases, f"{path}.bias")]))
    nodes.label(new, path)
    model.graph.insert_before(linears[0], new)
    return new[-1].outputs[0]


def _product_behind(value: ir.Value | None) -> Product | None:
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
