"""Query, key and value products in one, the form that GroupQueryAttention reads packed."""

import onnx_ir as ir

from dovetail_ort_export.passes.lowering import ProductPass
from dovetail_ort_export.passes.packing import pack, products_behind


class PackQkv(ProductPass):
    """Three `Linear` on one input, with or without biases, -> one whose output is query, key, value in a row.

    A block whose query or key passes through a norm of its own (Qwen3) is left alone.
    """

    operators = ("GroupQueryAttention",)

    def _is_for(self, node: ir.Node) -> bool:
        return bool(products_behind(node.inputs[:3]))

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        packed = pack(model, node.inputs[:3], "qkv_proj")
        for index, value in enumerate((packed, None, None)):
            node.replace_input_with(index, value)
