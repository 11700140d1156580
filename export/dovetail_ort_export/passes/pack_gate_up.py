"""The two products that open a gated MLP in one."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dovetail_ort_export.passes import nodes, packing


class PackGateUp(ir.passes.InPlacePass):
    """silu(gate(x)) * up(x) -> one `Linear`, split in two halves for the activation and the factor."""

    def requires(self, model: ir.Model) -> None:
        """Every product has its weight."""
        nodes.check_weights(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Pack every MLP."""
        modified = False
        for sigmoid in nodes.find(model, "Sigmoid", ""):
            if products := packing.packable([sigmoid.inputs[0], _factor(sigmoid)]):
                packed = packing.pack_products(model, products, "gate_up_proj")
                split = ir.node("Split", [packed], {"axis": -1, "num_outputs": 2}, num_outputs=2)
                nodes.label([split], str(sigmoid.name))
                model.graph.insert_after(nodes.producer_of(packed), split)
                for product, half in zip(products, split.outputs, strict=True):
                    product.last.outputs[0].replace_all_uses_with(half)
                modified = True
        if modified:
            RemoveUnusedNodesPass()(model)  # the products that were packed
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """No MLP is left that could begin with one product."""
        for sigmoid in nodes.find(model, "Sigmoid", ""):
            if packing.packable([sigmoid.inputs[0], _factor(sigmoid)]):
                raise ir.passes.PostconditionError(f"{sigmoid.name} still stands between two products of one input")


def _factor(sigmoid: ir.Node) -> ir.Value | None:
    """`up` in up * (gate * sigmoid(gate)), or None if the readers form another pattern."""
    silu = _only_reader(sigmoid, "Mul")
    product = None if silu is None else _only_reader(silu, "Mul")
    if silu is None or product is None or sigmoid.inputs[0] not in silu.inputs:
        return None
    return next((value for value in product.inputs if value is not silu.outputs[0]), None)


def _only_reader(node: ir.Node, op_type: str) -> ir.Node | None:
    readers = [use.node for use in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None
