"""Several products of one input as one product with their weights stacked, for the passes that pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes import nodes


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A `Linear`, with or without the addition of a bias.

    Attributes:
        linear: the node.
        add: the node that adds the bias, or None.
    """

    linear: ir.Node
    add: ir.Node | None

    @property
    def last(self) -> ir.Node:
        """The node whose output is the product's."""
        return self.add or self.linear


def product_behind(value: ir.Value | None) -> Product | None:
    """The product that `value` comes from, or None if it comes from something else."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "Add":
        inner = product_behind(node.inputs[0])
        return None if inner is None or inner.add is not None else Product(inner.linear, node)
    return None if node is None or node.op_type != "Linear" else Product(node, None)


def packable(values: Sequence[ir.Value | None]) -> list[Product]:
    """The products behind `values` if all read the same input and all or none have a bias, else an empty list."""
    products = [product for value in values if (product := product_behind(value)) is not None]
    inputs = {product.linear.inputs[0] for product in products}
    biased = {product.add is not None for product in products}
    return products if len(products) == len(values) and len(inputs) == len(biased) == 1 else []


def pack_products(model: ir.Model, products: Sequence[Product], name: str) -> ir.Value:
    """One product whose output is that of `products` side by side along the last axis; it stands before the first.

    The new weight is called after the first one, its last part replaced by `name`. The replaced nodes stay.
    """
    first = products[0].linear
    weights = [nodes.weight_of(nodes.input_of(product.linear, 1)) for product in products]
    path = f"{weights[0].name.rsplit('.', 2)[0]}.{name}"
    new = [ir.node("Linear", [first.inputs[0], _stacked(model, weights, f"{path}.weight")], domain="dovetail")]
    biases = [nodes.weight_of(nodes.input_of(product.add, 1)) for product in products if product.add is not None]
    if biases:
        new.append(ir.node("Add", [new[0].outputs[0], _stacked(model, biases, f"{path}.bias")]))
    nodes.label(new, path)
    model.graph.insert_before(first, new)
    return new[-1].outputs[0]


def _stacked(model: ir.Model, parts: Sequence[nodes.Weight], name: str) -> ir.Value:
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    tensor = nodes.lazy_tensor(lambda: np.concatenate([part.read() for part in parts]), shape)
    return nodes.initializer(model, name, tensor)
