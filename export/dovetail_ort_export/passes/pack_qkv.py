"""Query, key and value products in one, the form that GroupQueryAttention reads packed."""

from __future__ import annotations

import onnx_ir as ir

from dovetail_ort_export.passes import nodes, packing


class PackQkv(ir.passes.InPlacePass):
    """Three `Linear` on one input, with or without biases, -> one whose output is query, key, value in a row.

    A block whose query or key passes through a norm of its own (Qwen3) is left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Pack every attention that allows it."""
        modified = False
        for attention in nodes.find(model, "GroupQueryAttention", "com.microsoft"):
            values = attention.inputs[:3]
            if None not in values and packing.packable(values):
                packed = packing.pack_products(model, values, "qkv_proj")
                for index, value in enumerate((packed, None, None)):
                    attention.replace_input_with(index, value)
                packing.remove_products(model, values)
                modified = True
        return ir.passes.PassResult(model, modified)
