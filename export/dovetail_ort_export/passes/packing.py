"""Several products of one input as one product with their weights stacked, for the passes that pack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes import nodes


def product_behind(value: ir.Value) -> ir.Node | None:
    """The `Linear` that `value` comes from, seen through the addition of a bias; None if it is not one."""
    producer = value.producer()
    if producer is not None and producer.op_type == "Add":
        producer = producer.inputs[0].producer()
    return producer if producer is not None and producer.op_type == "Linear" else None


def packable(values: Sequence[ir.Value]) -> bool:
    """Whether all of `values` are products of the same input, and all or none have a bias."""
    products = [product_behind(value) for value in values]
    if None in products or len({value.producer().op_type for value in values}) > 1:
        return False
    return len({product.inputs[0] for product in products}) == 1


def pack_products(model: ir.Model, values: Sequence[ir.Value], name: str) -> ir.Value:
    """One product whose output is that of `values` side by side along the last axis; it stands before the first.

    The new weight is called after the first one, its last part replaced by `name`. The replaced nodes stay; remove
    them once nothing reads them.
    """
    products = [product_behind(value) for value in values]
    name = f"{products[0].inputs[1].name.rsplit('.', 2)[0]}.{name}"
    weight = _stacked(model, [product.inputs[1] for product in products], f"{name}.weight")
    new = [ir.node("Linear", [products[0].inputs[0], weight], domain="dovetail")]
    if values[0].producer().op_type == "Add":
        bias = _stacked(model, [value.producer().inputs[1] for value in values], f"{name}.bias")
        new.append(ir.node("Add", [new[0].outputs[0], bias]))
    nodes.label(new, name)
    model.graph.insert_before(products[0], new)
    return new[-1].outputs[0]


def remove_products(model: ir.Model, values: Sequence[ir.Value]) -> None:
    """Remove the products behind `values`, which nothing reads any more, and the weights that only they read."""
    old = [node for value in values for node in (value.producer(), product_behind(value))]
    model.graph.remove(list(dict.fromkeys(old)), safe=True)
    nodes.drop_unused_initializers(model)


def _stacked(model: ir.Model, parts: Sequence[ir.Value], name: str) -> ir.Value:
    tensors = [part.const_value for part in parts]
    shape = ir.Shape([sum(part.shape[0] for part in parts), *parts[0].shape[1:]])
    tensor = ir.LazyTensor(
        lambda: ir.Tensor(np.concatenate([tensor.numpy() for tensor in tensors])),
        dtype=ir.DataType.FLOAT,
        shape=shape,
        name=name,
    )
    return nodes.initializer(model, name, tensor)
