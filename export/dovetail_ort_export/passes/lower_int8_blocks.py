"""Products and embedding with 8-bit weights in blocks of 32."""

from __future__ import annotations

import onnx_ir as ir

from dovetail_ort_export.block_quantization import BLOCK_SIZE, block_scales, quantize_blocks
from dovetail_ort_export.passes import nodes
from dovetail_ort_runtime.errors import SourceError

_DOMAIN = "com.microsoft"


class LowerInt8Blocks(ir.passes.InPlacePass):
    """`Linear` -> MatMulNBits; `Embedding` -> GatherBlockQuantized, Reshape.

    accuracy_level 4 quantises activations per row and block of 32, so that a row's result is independent of the rows
    beside it. The embedding reads the blocks as a third axis: a tied head shares the same bytes.
    """

    def requires(self, model: ir.Model) -> None:
        """Every product has its weight."""
        nodes.check_weights(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every product and the embedding."""
        modified = False
        for node in nodes.find(model, "Linear", "dovetail"):
            nodes.replace(model, node, [lower_product_to_blocks(model, node)])
            modified = True
        for node in nodes.find(model, "Embedding", "dovetail"):
            nodes.replace(model, node, _embedding(model, node))
            modified = True
        nodes.drop_unused_initializers(model)  # float32 copies of what is quantised now
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """Nothing is left to lower."""
        nodes.check_none_left(model, "Linear", "dovetail")
        nodes.check_none_left(model, "Embedding", "dovetail")


def lower_product_to_blocks(model: ir.Model, node: ir.Node) -> ir.Node:
    """The MatMulNBits that takes the place of one `Linear`."""
    weight = nodes.weight_of(nodes.input_of(node, 1))
    out_features, in_features = weight.shape
    attributes = {"K": in_features, "N": out_features, "bits": 8, "block_size": BLOCK_SIZE, "accuracy_level": 4}
    blocks, scales = _quantised(model, weight)
    return ir.node("MatMulNBits", [node.inputs[0], blocks, scales], attributes, domain=_DOMAIN)


def _embedding(model: ir.Model, node: ir.Node) -> list[ir.Node]:
    weight = nodes.weight_of(nodes.input_of(node, 0))
    vocabulary_size, hidden_size = weight.shape
    blocks, scales = _quantised(model, weight)
    by_block = _shape_initializer(model, "embedding.scales_shape", [vocabulary_size, hidden_size // BLOCK_SIZE, 1])
    flat = _shape_initializer(model, "embedding.hidden_shape", [0, 0, hidden_size])
    scale_column = ir.node("Reshape", [scales, by_block])
    gather = ir.node(
        "GatherBlockQuantized",
        [blocks, node.inputs[1], scale_column.outputs[0]],
        {"gather_axis": 0, "quantize_axis": 2, "block_size": BLOCK_SIZE, "bits": 8},
        domain=_DOMAIN,
    )
    nodes.label([scale_column, gather], str(node.name))
    return [scale_column, gather, ir.node("Reshape", [gather.outputs[0], flat])]


def _quantised(model: ir.Model, weight: nodes.Weight) -> tuple[ir.Value, ir.Value]:
    rows, columns = weight.shape
    if columns % BLOCK_SIZE:
        raise SourceError(
            f"the input width of {weight.name} must be a multiple of {BLOCK_SIZE} for INT8, got {columns}; "
            "export with --precision fp32"
        )
    shape = (rows, columns // BLOCK_SIZE)
    blocks = nodes.lazy_tensor(lambda: quantize_blocks(weight.read()), (*shape, BLOCK_SIZE), ir.DataType.UINT8)
    scales = nodes.lazy_tensor(lambda: block_scales(weight.read()), shape)
    return (
        nodes.initializer(model, f"{weight.name}_quantized", blocks),
        nodes.initializer(model, f"{weight.name}_scales", scales),
    )


def _shape_initializer(model: ir.Model, name: str, shape: list[int]) -> ir.Value:
    return nodes.initializer(model, name, ir.tensor(shape, dtype=ir.DataType.INT64, name=name))
