"""Several products of one input as one product with their weights stacked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes.base import ProductPass
from dovetail_ort_export.passes.editing import (
    SKELETON_DOMAIN,
    constant,
    initializer,
    input_of,
    label,
    lazy_tensor,
    only_reader,
    producer_of,
    tensor_of,
)

# A `Linear`, and the bias added to it.
_Product = tuple[ir.Node, ir.Value | None]


class PackQkv(ProductPass):
    """Three `Linear` on one input, with or without biases, -> one whose output is query, key, value in a row.

    GroupQueryAttention reads them packed. Where query or key passes through a norm of its own (Qwen3), the output is
    split in front of the norms.
    """

    operators = ("GroupQueryAttention",)

    def _is_for(self, node: ir.Node) -> bool:
        return bool(_products_of(_projected(node)))

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        projected = _projected(node)
        products = _products_of(projected)
        sizes = [tensor_of(input_of(linear, 1)).shape.numpy()[0] for linear, _ in products]
        packed = _pack(model, products, "qkv_proj")
        if projected == list(node.inputs[:3]):
            for index, value in enumerate((packed, None, None)):
                node.replace_input_with(index, value)
            return
        product = producer_of(packed)
        widths = constant(model, f"{product.name}/widths", sizes)
        split = ir.node("Split", [packed, widths], {"axis": -1}, num_outputs=3)
        label([split], str(product.name))
        model.graph.insert_after(product, split)
        for whole, part in zip(projected, split.outputs, strict=True):
            assert whole is not None
            whole.replace_all_uses_with(part)


class PackGateUp(ProductPass):
    """silu(gate(x)) * up(x) -> one `Linear`, split in two halves for the activation and the factor."""

    operators = ("Sigmoid",)

    def _is_for(self, node: ir.Node) -> bool:
        return bool(_products_of(_gate_and_up(node)))

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        gate_and_up = _gate_and_up(node)
        packed = _pack(model, _products_of(gate_and_up), "gate_up_proj")
        split = ir.node("Split", [packed], {"axis": -1, "num_outputs": 2}, num_outputs=2)
        label([split], str(node.name))
        model.graph.insert_after(producer_of(packed), split)
        for whole, half in zip(gate_and_up, split.outputs, strict=True):
            whole.replace_all_uses_with(half)


def normed_by_head(value: ir.Value | None) -> tuple[ir.Value | None, ir.Node | None]:
    """What the heads of queries or keys are before a norm by head (Qwen3), and that norm; `value` if there is none."""
    flat = None if value is None else value.producer()
    if flat is None or flat.op_type != "Reshape":
        return value, None
    norm = input_of(flat, 0).producer()
    if norm is None or norm.op_type != "SimplifiedLayerNormalization":
        return value, None
    by_head = input_of(norm, 0).producer()
    if by_head is None or by_head.op_type != "Reshape":
        return value, None
    return input_of(by_head, 0), norm


def _projected(attention: ir.Node) -> list[ir.Value | None]:
    """Queries, keys and values as they leave their products, before norms by head."""
    return [normed_by_head(value)[0] for value in attention.inputs[:3]]


def _gate_and_up(sigmoid: ir.Node) -> list[ir.Value]:
    """Gate and up of up * (gate * sigmoid(gate)), or nothing if the readers form another pattern."""
    gate = input_of(sigmoid, 0)
    silu = _only_product(sigmoid)
    if silu is None or gate not in silu.inputs:
        return []
    product = _only_product(silu)
    if product is None:
        return []
    up = [value for value in product.inputs if value is not None and value is not silu.outputs[0]]
    return [gate, *up] if up else []


def _only_product(node: ir.Node) -> ir.Node | None:
    """The `Mul` that reads the node's output, if nothing else reads it."""
    reader = only_reader(node.outputs[0])
    return reader if reader is not None and reader.op_type == "Mul" else None


def _products_of(values: Sequence[ir.Value | None]) -> list[_Product]:
    """The products that values come from, if all have one input, and all or none have a bias; nothing otherwise."""
    products = []
    for value in values:
        product = _product_behind(value)
        if product is None:
            return []
        products.append(product)
    inputs = {linear.inputs[0] for linear, _ in products}
    biased = {bias is not None for _, bias in products}
    return products if len(inputs) == 1 and len(biased) == 1 else []


def _product_behind(value: ir.Value | None) -> _Product | None:
    node = None if value is None else value.producer()
    bias = None
    if node is not None and node.op_type == "Add":
        bias = node.inputs[1]
        node = input_of(node, 0).producer()
    if node is None or node.op_type != "Linear":
        return None
    return node, bias


def _pack(model: ir.Model, products: Sequence[_Product], name: str) -> ir.Value:
    """The outputs of products side by side along the last axis, as one product before the first of them.

    The new weight is named after the first one, with `name` as the last part. The old nodes stay.
    """
    linears = [linear for linear, _ in products]
    biases = [bias for _, bias in products if bias is not None]
    weights = [input_of(linear, 1) for linear in linears]
    path = f"{str(weights[0].name).rsplit('.', 2)[0]}.{name}"
    weight = _stacked(model, weights, f"{path}.weight")
    new = [ir.node("Linear", [linears[0].inputs[0], weight], domain=SKELETON_DOMAIN)]
    if biases:
        bias = _stacked(model, biases, f"{path}.bias")
        new.append(ir.node("Add", [new[0].outputs[0], bias]))
    label(new, path)
    model.graph.insert_before(linears[0], new)
    return new[-1].outputs[0]


def _stacked(model: ir.Model, parts: Sequence[ir.Value], name: str) -> ir.Value:
    """The initializer `name`: weights (N, K) or biases (N,) one after the other along the first axis."""
    tensors = [tensor_of(part) for part in parts]
    shapes = [tensor.shape.numpy() for tensor in tensors]
    num_outputs = sum(shape[0] for shape in shapes)
    shape = (num_outputs, *shapes[0][1:])
    stacked = lazy_tensor(name, lambda: np.concatenate([tensor.numpy() for tensor in tensors]), shape)
    return initializer(model, name, stacked)
