"""Products and embedding with 8-bit weights and 8-bit activations, one scale per output and one per row."""

from functools import partial
from typing import Final, NamedTuple

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.lower_int8_blocks import product_in_blocks
from dovetail_ort_export.passes.lowering import Lowering
from dovetail_ort_export.passes.score_rows import SCORED_ROWS
from dovetail_ort_export.quantization import LARGEST, ZERO_POINT, BlockFormat, output_scales, quantize_outputs

_DOMAIN: Final = "com.microsoft"
# QuantizeLinear takes a scale for each block of an axis, here the whole row, from this version on.
_OPSET: Final = 21


class _Activation(NamedTuple):
    """A quantised activation: (B, S, K) uint8, offset by 128; what one step is worth; a factor of each row or None."""

    steps: ir.Value
    step: ir.Value
    row_scale: ir.Value | None


class LowerInt8Rows(Lowering):
    """`Linear` -> QuantizeLinear, MatMulIntegerToFloat; `Embedding` -> a gather of columns of the same weights.

    Sums of 8-bit products are exact integers, so a row's result depends on nothing beside it. Behind a norm whose range
    is known the activation's scale is a constant; elsewhere it is the row's own maximum over 127 (a row of zeros has
    scale 0, and so the result 0 whatever integers stand for it). What a gated product reads stays in blocks of 32:
    its few huge values would take the whole range of a row.

    Args:
        attention_in_blocks: whether attention's output stays in blocks, too: more milliseconds a row, but four nodes
            fewer a block of the model.
        unsigned_weights: whether weights are stored as uint8, offset by 128. Processors without VNNI then add whole
            products, where of signed weights they add pairs in 16 bits and cut off large sums; with VNNI signed
            weights are right and take less time.
    """

    def __init__(self, attention_in_blocks: bool = False, unsigned_weights: bool = False) -> None:
        super().__init__()
        self._in_blocks = ("Mul", "GroupQueryAttention") if attention_in_blocks else ("Mul",)
        self._unsigned_weights = unsigned_weights

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every product and the embedding."""
        self._activations = _Activations(model)
        result = super().call(model)
        if result.modified:
            model.graph.opset_imports[""] = _OPSET
        return result

    def _product(self, model: ir.Model, node: ir.Node) -> list[ir.Node]:
        x = nodes.input_of(node, 0)
        if x.producer() is not None and nodes.producer_of(x).op_type in self._in_blocks:
            return [product_in_blocks(model, node, BlockFormat())]
        steps, scales, width = self._quantised(model, nodes.input_of(node, 1))
        activation = self._activations.of(x, node, width)
        zero_points = [_zero_point(model)] * (2 if self._unsigned_weights else 1)
        product = ir.node(
            "MatMulIntegerToFloat", [activation.steps, steps, activation.step, scales, *zero_points], domain=_DOMAIN
        )
        if activation.row_scale is None:
            return [product]
        nodes.label([product], str(node.name))
        return [product, ir.node("Mul", [product.outputs[0], activation.row_scale])]

    def _embedding(self, model: ir.Model, node: ir.Node) -> list[ir.Node]:
        ids = nodes.input_of(node, 1)
        steps, scales, _ = self._quantised(model, nodes.input_of(node, 0))  # (E, V), as the head reads them
        columns = ir.node("Gather", [steps, ids], {"axis": 1})
        rows = ir.node("Transpose", [columns.outputs[0]], {"perm": [1, 2, 0]})
        values = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
        found = [columns, rows, values]
        if self._unsigned_weights:
            zero_point = nodes.constant(model, "weight.zero_point", np.float32(ZERO_POINT))
            found.append(ir.node("Sub", [values.outputs[0], zero_point]))
        row_scales = ir.node("Gather", [scales, ids], {"axis": 0})
        factors = ir.node("Unsqueeze", [row_scales.outputs[0], _last_axis(model)])
        nodes.label(found, str(node.name))
        nodes.label([row_scales, factors], f"{node.name}/scales")
        product = ir.node("Mul", [found[-1].outputs[0], factors.outputs[0]])
        return [*found, row_scales, factors, product]

    def _quantised(self, model: ir.Model, weight: ir.Value) -> tuple[ir.Value, ir.Value, int]:
        """Integers (K, N), scales (N,) and K of a weight (N, K)."""
        outputs, inputs = nodes.tensor_of(weight).shape.numpy()
        dtype = ir.DataType.UINT8 if self._unsigned_weights else ir.DataType.INT8
        quantize = partial(quantize_outputs, unsigned=self._unsigned_weights)
        steps = nodes.derived(model, weight, "quantized", quantize, (inputs, outputs), dtype)
        return steps, nodes.derived(model, weight, "scales", output_scales, (outputs,)), inputs


class _Activations:
    """The activations of one graph, each quantised once, where the first product reads it."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._quantised: dict[ir.Value, _Activation] = {}
        self._zero_points: ir.Value | None = None
        self._inputs = nodes.by_name(model.graph.inputs)
        self._of_scored_rows = nodes.values_behind(model, self._inputs.get(SCORED_ROWS))

    def of(self, x: ir.Value, reader: ir.Node, width: int) -> _Activation:
        """`x` (B, S, width), quantised before `reader` if it is not yet."""
        if x not in self._quantised:
            name = f"{x.name}/quantized"
            largest = _known_range(x)
            self._quantised[x] = (
                self._by_constant(x, reader, name, largest) if largest else self._by_row(x, reader, name, width)
            )
        return self._quantised[x]

    def _by_constant(self, x: ir.Value, reader: ir.Node, name: str, largest: float) -> _Activation:
        step = nodes.constant(self._model, f"{name}.step", np.float32(largest / LARGEST))
        quantize = ir.node("QuantizeLinear", [x, step, _zero_point(self._model)])
        self._insert([quantize], reader, name)
        return _Activation(quantize.outputs[0], step, None)

    def _by_row(self, x: ir.Value, reader: ir.Node, name: str, width: int) -> _Activation:
        magnitude = ir.node("Abs", [x])
        largest = ir.node("ReduceMax", [magnitude.outputs[0], _last_axis(self._model)], {"keepdims": 1})
        per_step = nodes.constant(self._model, "activation.per_step", np.float32(1 / LARGEST))
        scale = ir.node("Mul", [largest.outputs[0], per_step])
        self._insert([magnitude, largest, scale], reader, name)
        if x in self._of_scored_rows:
            zero_points = self._zero_points_like(scale, reader, name)
        else:
            zero_points = self._row_zero_points()
        quantize = ir.node("QuantizeLinear", [x, scale.outputs[0], zero_points], {"axis": -1, "block_size": width})
        self._insert([quantize], reader, name)
        one = nodes.constant(self._model, "activation.one", np.float32(1))
        return _Activation(quantize.outputs[0], one, scale.outputs[0])

    def _row_zero_points(self) -> ir.Value:
        """(B, S, 1) uint8: a zero point has the shape of its scales; one tensor serves all rows' activations."""
        if self._zero_points is None:
            first = self._model.graph[0]
            column = ir.node("Unsqueeze", [self._inputs["input_ids"], _last_axis(self._model)])
            self._insert([column], first, "activation/zero_points")
            self._zero_points = self._zero_points_like(column, first, "activation")
        return self._zero_points

    def _zero_points_like(self, column: ir.Node, reader: ir.Node, name: str) -> ir.Value:
        """uint8 zero points of the shape that `column` gives."""
        shape = ir.node("Shape", [column.outputs[0]])
        value = ir.tensor(np.array([ZERO_POINT], dtype=np.uint8))
        filled = ir.node("ConstantOfShape", [shape.outputs[0]], {"value": value})
        self._insert([shape, filled], reader, f"{name}/zero_points")
        return filled.outputs[0]

    def _insert(self, new: list[ir.Node], reader: ir.Node, name: str) -> None:
        nodes.label(new, name)
        self._model.graph.insert_before(reader, new)


def _zero_point(model: ir.Model) -> ir.Value:
    return nodes.constant(model, "zero_point", np.uint8(ZERO_POINT))


def _last_axis(model: ir.Model) -> ir.Value:
    return nodes.constant(model, "last_axis", [-1])


def _known_range(x: ir.Value) -> float | None:
    """Largest magnitude of `x` where it is the output of a norm that knows it."""
    node = x.producer()
    index = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2}.get(node.op_type if node else "")
    if node is None or index is None:
        return None
    largest: float | None = nodes.input_of(node, index).meta.get(nodes.LARGEST_OUTPUT)
    return largest
