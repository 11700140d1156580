"""Query, key and value products in one, the form that GroupQueryAttention reads packed."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.lowering import ProductPass
from dovetail_ort_export.passes.packing import pack


class PackQkv(ProductPass):
    """Three `Linear` on one input, with or without biases, -> one whose output is query, key, value in a row.

    A block whose query or key passes through a norm of its own (Qwen3) is left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Pack every attention that allows it."""
        modified = False
        for attention in nodes.find(model, "GroupQueryAttention", "com.microsoft"):
            if packed := pack(model, attention.inputs[:3], "qkv_proj"):
                for index, value in enumerate((packed, None, None)):
                    attention.replace_input_with(index, value)
                modified = True
        if modified:
            RemoveUnusedNodesPass()(model)  # the products that were packed
        return ir.passes.PassResult(model, modified)
