"""Products and embedding with 8-bit weights in blocks; those of the MLP may have 4 bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.passes.base import Lowering
from dovetail_ort_export.passes.editing import ONNXRUNTIME_DOMAIN, constant, derived, input_of, label, tensor_of
from dovetail_ort_export.quantization.blocks import BLOCK_BITS, BLOCK_SIZES, BlockFormat, block_scales, quantize_blocks
from dovetail_ort_runtime.errors import InputError, SourceError

_MLP: Final = ".mlp."


class LowerInt8Blocks(Lowering):
    """`Linear` -> MatMulNBits; `Embedding` -> GatherBlockQuantized, Reshape.

    accuracy_level 4 quantises activations per row and block, so that a row's result is independent of the rows beside
    it where the machine's kernels keep them apart, as export measures. The embedding reads the blocks as a third axis:
    a tied head shares the same bytes.

    Args:
        block_size: number of weights that share a scale: 16, 32, 64 or 128.
        mlp_bits: bits of a weight whose name contains `.mlp.`: 8, or 4.

    Raises:
        InputError: an option has another value.
    """

    def __init__(self, block_size: int = 32, mlp_bits: int = 8) -> None:
        super().__init__()
        _check_option("block_size", block_size, BLOCK_SIZES)
        _check_option("mlp_bits", mlp_bits, BLOCK_BITS)
        self._format = BlockFormat(block_size=block_size)
        self._mlp_format = BlockFormat(block_size=block_size, bits=mlp_bits)

    def _product(self, model: ir.Model, node: ir.Node) -> list[ir.Node]:
        form = self._mlp_format if _MLP in str(input_of(node, 1).name) else self._format
        return [_product_in_blocks(model, node, form)]

    def _embedding(self, model: ir.Model, node: ir.Node) -> list[ir.Node]:
        form = self._format
        blocks, scales, (vocabulary_size, hidden_size) = _quantised(model, input_of(node, 0), form)
        by_block = constant(model, "embedding.scales_shape", [vocabulary_size, hidden_size // form.block_size, 1])
        flat = constant(model, "embedding.hidden_shape", [0, 0, hidden_size])
        scale_column = ir.node("Reshape", [scales, by_block])
        gather = ir.node(
            "GatherBlockQuantized",
            [blocks, node.inputs[1], scale_column.outputs[0]],
            {"gather_axis": 0, "quantize_axis": 2, "block_size": form.block_size, "bits": form.bits},
            domain=ONNXRUNTIME_DOMAIN,
        )
        label([scale_column, gather], str(node.name))
        return [scale_column, gather, ir.node("Reshape", [gather.outputs[0], flat])]


def _check_option(name: str, value: object, allowed: Sequence[int]) -> None:
    if type(value) is not int or value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def _product_in_blocks(model: ir.Model, node: ir.Node, form: BlockFormat) -> ir.Node:
    """The MatMulNBits that replaces one `Linear`."""
    blocks, scales, (out_features, in_features) = _quantised(model, input_of(node, 1), form)
    attributes = {
        "K": in_features,
        "N": out_features,
        "bits": form.bits,
        "block_size": form.block_size,
        "accuracy_level": 4,
    }
    return ir.node("MatMulNBits", [node.inputs[0], blocks, scales], attributes, domain=ONNXRUNTIME_DOMAIN)


def _quantised(model: ir.Model, weight: ir.Value, form: BlockFormat) -> tuple[ir.Value, ir.Value, tuple[int, ...]]:
    """Blocks, their scales, and the shape of a weight.

    Raises:
        SourceError: blocks do not divide the weight's width.
    """
    rows, columns = tensor_of(weight).shape.numpy()
    if columns % form.block_size:
        raise SourceError(
            f"the input width of {weight.name} must be a multiple of {form.block_size} for INT8, got {columns}; "
            "export with --precision fp32, or with a recipe that gives lower-int8-blocks another block_size"
        )
    shape = (rows, columns // form.block_size)
    quantize = partial(quantize_blocks, form=form)
    blocks = derived(model, weight, "quantized", quantize, (*shape, form.block_bytes), ir.DataType.UINT8)
    scales = derived(model, weight, "scales", partial(block_scales, form=form), shape)
    return blocks, scales, (rows, columns)
