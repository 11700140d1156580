"""The two products that open a gated MLP in one."""

from __future__ import annotations

import onnx_ir as ir

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.lowering import ProductPass
from dovetail_ort_export.passes.packing import pack, products_behind


class PackGateUp(ProductPass):
    """silu(gate(x)) * up(x) -> one `Linear`, split in two halves for the activation and the factor."""

    operators = ("Sigmoid",)

    def _is_for(self, node: ir.Node) -> bool:
        return bool(products_behind(_gate_and_up(node)))

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        products = _gate_and_up(node)
        packed = pack(model, products, "gate_up_proj")
        split = ir.node("Split", [packed], {"axis": -1, "num_outputs": 2}, num_outputs=2)
        nodes.label([split], str(node.name))
        model.graph.insert_after(nodes.producer_of(packed), split)
        for whole, half in zip(products, split.outputs, strict=True):
            whole.replace_all_uses_with(half)


def _gate_and_up(sigmoid: ir.Node) -> list[ir.Value]:
    """Those of up * (gate * sigmoid(gate)), or nothing if the readers form another pattern."""
    gate, silu = nodes.input_of(sigmoid, 0), _only_reader(sigmoid)
    product = silu and _only_reader(silu)
    if silu is None or product is None or gate not in silu.inputs:
        return []
    up = [value for value in product.inputs if value is not None and value is not silu.outputs[0]]
    return [gate, *up] if up else []


def _only_reader(node: ir.Node) -> ir.Node | None:
    """The `Mul` that alone reads the node's output, if there is one."""
    reader = nodes.only_reader(node.outputs[0])
    return reader if reader is not None and reader.op_type == "Mul" else None
