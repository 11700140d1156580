"""Products and embedding in half precision, the format of CUDA's attention kernel."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.lower_float import LowerFloat

_CACHE: Final = ("past_key_values.", "present.")


class LowerHalf(LowerFloat):
    """As `LowerFloat`, then every float32 weight and value becomes float16.

    The caches are float16; all other inputs and outputs keep float32 and are converted at the graph's edge.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every product and the embedding, and narrow what is float32."""
        super().call(model)
        graph = model.graph
        for value in graph.initializers.values():
            if value.dtype == ir.DataType.FLOAT:
                value.const_value, value.dtype = _half(value), ir.DataType.FLOAT16
        for node in graph:
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    output.dtype = ir.DataType.FLOAT16
        for value in graph.inputs:
            if value.dtype == ir.DataType.FLOAT:
                _convert_input(graph, value)
        for index, value in enumerate(graph.outputs):
            if value.dtype == ir.DataType.FLOAT16 and not str(value.name).startswith(_CACHE):
                graph.outputs[index] = _converted_output(graph, value)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """Nothing is left to lower, and no weight in single precision."""
        super().ensures(model)
        for name, value in model.graph.initializers.items():
            if value.dtype == ir.DataType.FLOAT:
                raise ir.passes.PostconditionError(f"{name} is left in float32")


def _half(weight: ir.Value) -> ir.LazyTensor:
    tensor = nodes.tensor_of(weight)
    shape = tensor.shape.numpy()
    return nodes.lazy_tensor(str(weight.name), lambda: tensor.numpy().astype(np.float16), shape, ir.DataType.FLOAT16)


def _convert_input(graph: ir.Graph, value: ir.Value) -> None:
    if str(value.name).startswith(_CACHE):
        value.dtype = ir.DataType.FLOAT16
        return
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT16})
    nodes.label([cast], f"{value.name}/half")
    value.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, value)
    graph.insert_before(graph[0], cast)


def _converted_output(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A float32 output that takes the name of a float16 one."""
    single = ir.val(value.name, ir.DataType.FLOAT, value.shape)
    value.name = f"{single.name}_half"
    name = f"{single.name}/single/Cast"
    graph.append(ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=name, outputs=[single]))
    return single
