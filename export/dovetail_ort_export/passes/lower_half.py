"""Products and embedding in half precision, the format of CUDA's attention kernel."""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.lower_float import LowerFloat

_CACHE: Final = ("past_key_values.", "present.")


class LowerHalf(ir.passes.InPlacePass):
    """As `LowerFloat`, then every float32 weight and value becomes float16.

    The caches are float16; all other inputs and outputs keep float32 and are converted at the graph's edge.
    """

    def requires(self, model: ir.Model) -> None:
        """Every product has its weight."""
        nodes.check_weights(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every product and the embedding."""
        LowerFloat()(model)
        graph = model.graph
        for name, value in list(graph.initializers.items()):
            if value.dtype == ir.DataType.FLOAT:
                weight = nodes.weight_of(value)
                value.const_value = nodes.lazy_tensor(partial(_half, weight), weight.shape, ir.DataType.FLOAT16)
                value.const_value.name = name
                value.dtype = ir.DataType.FLOAT16
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
        """No weight is left in single precision."""
        for name, value in model.graph.initializers.items():
            if value.dtype == ir.DataType.FLOAT:
                raise ir.passes.PostconditionError(f"{name} is left in float32")


def _half(weight: nodes.Weight) -> NDArray[np.float16]:
    return weight.read().astype(np.float16)


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
    name = str(value.name)
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
    nodes.label([cast], f"{name}/single")
    graph.append(cast)
    value.name = f"{name}_half"
    single = cast.outputs[0]
    single.name, single.shape, single.type = name, value.shape, ir.TensorType(ir.DataType.FLOAT)
    return single
