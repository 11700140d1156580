"""Products and embedding with 8-bit weights in blocks of 32."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from dovetail_ort_export.block_quantization import BLOCK_SIZE, block_scales, quantize_blocks
from dovetail_ort_export.passes import nodes
from dovetail_ort_runtime.errors import SourceError
from dovetail_ort_runtime.arrays import FloatArray

_DOMAIN = "com.microsoft"


class LowerInt8Blocks(ir.passes.InPlacePass):
    """`Linear` -> MatMulNBits; `Embedding` -> GatherBlockQuantized, Reshape.

    accuracy_level 4 quantises activations per row and block of 32, so that a row's result is independent of the rows
    beside it. The embedding reads the blocks as a third axis: a tied head shares the same bytes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every product and the embedding."""
        modified = False
        for node in nodes.find(model, "Linear", "dovetail"):
            nodes.replace(model, node, [self._product(model, node)])
            modified = True
        for node in nodes.find(model, "Embedding", "dovetail"):
            nodes.replace(model, node, self._embedding(model, node))
            modified = True
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """No float32 copy of a quantised weight is left in the graph."""
        nodes.drop_unused_initializers(model)

    def _product(self, model: ir.Model, node: ir.Node) -> ir.Node:
        x, weight = node.inputs
        blocks, scales = self._quantised(model, weight)
        out_features, in_features = weight.shape
        attributes = {"K": in_features, "N": out_features, "bits": 8, "block_size": BLOCK_SIZE, "accuracy_level": 4}
        return ir.node("MatMulNBits", [x, blocks, scales], attributes, domain=_DOMAIN)

    def _embedding(self, model: ir.Model, node: ir.Node) -> list[ir.Node]:
        weight, input_ids = node.inputs
        blocks, scales = self._quantised(model, weight)
        vocabulary_size, hidden_size = weight.shape
        by_block = _shape_initializer(model, "embedding.scales_shape", [vocabulary_size, hidden_size // BLOCK_SIZE, 1])
        flat = _shape_initializer(model, "embedding.hidden_shape", [0, 0, hidden_size])
        scale_column = ir.node("Reshape", [scales, by_block])
        gather = ir.node(
            "GatherBlockQuantized",
            [blocks, input_ids, scale_column.outputs[0]],
            {"gather_axis": 0, "quantize_axis": 2, "block_size": BLOCK_SIZE, "bits": 8},
            domain=_DOMAIN,
        )
        return [scale_column, gather, ir.node("Reshape", [gather.outputs[0], flat])]

    def _quantised(self, model: ir.Model, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
        rows, columns = weight.shape
        if columns % BLOCK_SIZE:
            raise SourceError(
                f"the input width of {weight.name} must be a multiple of {BLOCK_SIZE} for INT8, got {columns}; "
                "export with --precision fp32"
            )
        shape = (rows, columns // BLOCK_SIZE)
        source = weight.const_value
        scales = _lazy(lambda: block_scales(source.numpy()), ir.DataType.FLOAT, shape)
        blocks = _lazy(lambda: quantize_blocks(source.numpy()), ir.DataType.UINT8, (*shape, BLOCK_SIZE))
        return (
            nodes.initializer(model, f"{weight.name}_quantized", blocks),
            nodes.initializer(model, f"{weight.name}_scales", scales),
        )


def _lazy(compute: Callable[[], FloatArray], dtype: ir.DataType, shape: tuple[int, ...]) -> ir.LazyTensor:
    return ir.LazyTensor(lambda: ir.Tensor(compute()), dtype=dtype, shape=ir.Shape(shape))


def _shape_initializer(model: ir.Model, name: str, shape: list[int]) -> ir.Value:
    return nodes.initializer(model, name, ir.tensor(shape, dtype=ir.DataType.INT64, name=name))
