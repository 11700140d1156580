"""The two products that open a gated MLP in one."""

import onnx_ir as ir

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.lowering import ProductPass
from dovetail_ort_export.passes.packing import pack


class PackGateUp(ProductPass):
    """silu(gate(x)) * up(x) -> one `Linear`, split in two halves for the activation and the factor."""

    operators = ("Sigmoid",)

    def _rewrite(self, model: ir.Model, node: ir.Node) -> bool:
        gate, up = nodes.input_of(node, 0), _factor(node)
        packed = up and pack(model, [gate, up], "gate_up_proj")
        if up is None or packed is None:
            return False
        split = ir.node("Split", [packed], {"axis": -1, "num_outputs": 2}, num_outputs=2)
        nodes.label([split], str(node.name))
        model.graph.insert_after(nodes.producer_of(packed), split)
        for whole, half in zip((gate, up), split.outputs, strict=True):
            whole.replace_all_uses_with(half)
        return True


def _factor(sigmoid: ir.Node) -> ir.Value | None:
    """`up` in up * (gate * sigmoid(gate)), or None if the readers form another pattern."""
    silu = _only_reader(sigmoid)
    product = silu and _only_reader(silu)
    if silu is None or product is None or sigmoid.inputs[0] not in silu.inputs:
        return None
    return next((value for value in product.inputs if value is not silu.outputs[0]), None)


def _only_reader(node: ir.Node) -> ir.Node | None:
    """The `Mul` that alone reads the node's output, if there is one."""
    readers = [use.node for use in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 and readers[0].op_type == "Mul" else None
