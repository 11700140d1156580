"""Query, key and value products in one."""

from __future__ import annotations

import onnx_ir as ir

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.lowering import ProductPass
from dovetail_ort_export.passes.packing import normed_by_head, pack, products_behind


class PackQkv(ProductPass):
    """Three `Linear` on one input, with or without biases, -> one whose output is query, key, value in a row.

    GroupQueryAttention reads them packed. Where query or key passes through a norm of its own (Qwen3), the output is
    split in front of the norms.
    """

    operators = ("GroupQueryAttention",)

    def _is_for(self, node: ir.Node) -> bool:
        return bool(products_behind(_projected(node)))

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        projected = _projected(node)
        sizes = [
            nodes.tensor_of(nodes.input_of(linear, 1)).shape.numpy()[0] for linear, _ in products_behind(projected)
        ]
        packed = pack(model, projected, "qkv_proj")
        if projected == list(node.inputs[:3]):
            for index, value in enumerate((packed, None, None)):
                node.replace_input_with(index, value)
            return
        product = nodes.producer_of(packed)
        widths = nodes.constant(model, f"{product.name}/widths", sizes)
        split = ir.node("Split", [packed, widths], {"axis": -1}, num_outputs=3)
        nodes.label([split], str(product.name))
        model.graph.insert_after(product, split)
        for whole, part in zip(projected, split.outputs, strict=True):
            assert whole is not None
            whole.replace_all_uses_with(part)


def _projected(attention: ir.Node) -> list[ir.Value | None]:
    """Queries, keys and values as they leave their products, before norms by head."""
    return [normed_by_head(value)[0] for value in attention.inputs[:3]]
