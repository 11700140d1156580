"""Products and embedding in floating point: float32, or half precision, the format of CUDA's attention kernel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes.base import Lowering
from dovetail_ort_export.passes.editing import derived, input_of, label, lazy_tensor, tensor_of
from dovetail_ort_runtime.bundle.graph_names import is_past, is_present


class LowerFloat(Lowering):
    """`Linear` -> MatMul with the weight transposed; `Embedding` -> Gather.

    A weight that something else reads too (a tied head) keeps its layout and is transposed by a node, which ONNX
    Runtime folds at load: on disk it stands once.
    """

    def _product(self, model: ir.Model, node: ir.Node) -> list[ir.Node]:
        x = input_of(node, 0)
        weight = input_of(node, 1)
        if len(weight.uses()) > 1:
            transpose = ir.node("Transpose", [weight], {"perm": [1, 0]})
            return [transpose, ir.node("MatMul", [x, transpose.outputs[0]])]
        shape = tensor_of(weight).shape.numpy()
        transposed = derived(model, weight, "transposed", np.transpose, shape[::-1])
        return [ir.node("MatMul", [x, transposed])]

    def _embedding(self, model: ir.Model, node: ir.Node) -> list[ir.Node]:  # noqa: ARG002  a lowering's signature
        return [ir.node("Gather", node.inputs, {"axis": 0})]


class LowerHalf(LowerFloat):
    """`LowerFloat`, after which every float32 weight and value becomes float16.

    The caches are float16; all other inputs and outputs keep float32 and are converted at the graph's edge.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every product and the embedding, and narrow what is float32."""
        super().call(model)
        graph = model.graph
        _narrow_initializers(graph)
        _narrow_values(graph)
        for value in graph.inputs:
            if value.dtype == ir.DataType.FLOAT:
                _narrow_input(graph, value)
        for index, value in enumerate(graph.outputs):
            if value.dtype == ir.DataType.FLOAT16 and not is_present(str(value.name)):
                graph.outputs[index] = _widened_output(graph, value)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """Check that nothing is left to lower, and no weight is in single precision.

        Raises:
            PostconditionError: something is left.
        """
        super().ensures(model)
        for name, value in model.graph.initializers.items():
            if value.dtype == ir.DataType.FLOAT:
                raise ir.passes.PostconditionError(f"{name} is left in float32")


def _narrow_initializers(graph: ir.Graph) -> None:
    for value in graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT:
            value.const_value = _half(value)
            value.dtype = ir.DataType.FLOAT16


def _half(weight: ir.Value) -> ir.LazyTensor:
    tensor = tensor_of(weight)
    shape = tensor.shape.numpy()
    return lazy_tensor(str(weight.name), lambda: tensor.numpy().astype(np.float16), shape, ir.DataType.FLOAT16)


def _narrow_values(graph: ir.Graph) -> None:
    for node in graph:
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT:
                output.dtype = ir.DataType.FLOAT16


def _narrow_input(graph: ir.Graph, value: ir.Value) -> None:
    """Make a cache float16, and convert any other input where it enters the graph."""
    if is_past(str(value.name)):
        value.dtype = ir.DataType.FLOAT16
        return
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT16})
    label([cast], f"{value.name}/half")
    value.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, value)
    graph.insert_before(graph[0], cast)


def _widened_output(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A float32 output that takes the name of a float16 one."""
    single = ir.val(value.name, ir.DataType.FLOAT, value.shape)
    value.name = f"{single.name}_half"
    name = f"{single.name}/single/Cast"
    graph.append(ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=name, outputs=[single]))
    return single
