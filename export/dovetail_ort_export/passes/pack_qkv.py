"""Query, key and value products in one, the form that GroupQueryAttention reads packed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes import nodes


class PackQkv(ir.passes.InPlacePass):
    """Three `Linear` on one input, each with or without a bias, -> one whose output is query, key, value in a row.

    A block whose query or key passes through a norm of its own (Qwen3) is left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Pack every attention that allows it."""
        modified = False
        for attention in nodes.find(model, "GroupQueryAttention", "com.microsoft"):
            outputs = attention.inputs[:3]
            products = [_product(output) for output in outputs]
            if None not in products and len({product.inputs[0] for product in products}) == 1:
                _pack(model, attention, products)
                modified = True
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """Only the packed weights are left."""
        nodes.drop_unused_initializers(model)


def _product(output: ir.Value) -> ir.Node | None:
    """The `Linear` behind an attention input, seen through the addition of a bias."""
    producer = output.producer()
    if producer is not None and producer.op_type == "Add":
        producer = producer.inputs[0].producer()
    return producer if producer is not None and producer.op_type == "Linear" else None


def _pack(model: ir.Model, attention: ir.Node, products: Sequence[ir.Node]) -> None:
    last = [output.producer() for output in attention.inputs[:3]]
    weight = _concatenated(model, [product.inputs[1] for product in products])
    new = [ir.node("Linear", [products[0].inputs[0], weight], domain="dovetail")]
    if any(node.op_type == "Add" for node in last):
        bias = _concatenated(model, [node.inputs[1] for node in last])
        new.append(ir.node("Add", [new[0].outputs[0], bias]))
    for node in new:
        node.name = f"{attention.name}/qkv/{node.op_type}"
        node.outputs[0].name = f"{node.name}_output_0"
    model.graph.insert_before(attention, new)
    attention.replace_input_with(0, new[-1].outputs[0])
    attention.replace_input_with(1, None)
    attention.replace_input_with(2, None)
    model.graph.remove(list(dict.fromkeys([*last, *products])), safe=True)


def _concatenated(model: ir.Model, parts: Sequence[ir.Value]) -> ir.Value:
    """One initializer of the rows of several, concatenated when it is written."""
    tensors = [part.const_value for part in parts]
    shape = ir.Shape([sum(part.shape[0] for part in parts), *parts[0].shape[1:]])
    name = parts[0].name.replace("q_proj", "qkv_proj")
    tensor = ir.LazyTensor(
        lambda: ir.Tensor(np.concatenate([tensor.numpy() for tensor in tensors])),
        dtype=ir.DataType.FLOAT,
        shape=shape,
        name=name,
    )
    return nodes.initializer(model, name, tensor)
