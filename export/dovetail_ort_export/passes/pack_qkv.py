"""Query, key and value products in one, the form that GroupQueryAttention reads packed."""

import onnx_ir as ir

from dovetail_ort_export.passes.lowering import ProductPass
from dovetail_ort_export.passes.packing import pack


class PackQkv(ProductPass):
    """Three `Linear` on one input, with or without biases, -> one whose output is query, key, value in a row.

    A block whose query or key passes through a norm of its own (Qwen3) is left alone.
    """

    operators = ("GroupQueryAttention",)

    def _rewrite(self, model: ir.Model, node: ir.Node) -> bool:
        packed = pack(model, node.inputs[:3], "qkv_proj")
        if packed is None:
            return False
        for index, value in enumerate((packed, None, None)):
            node.replace_input_with(index, value)
        return True
