"""Attention without a bias: a row of a chain sees all rows before it, and CUDA's fast kernels need that."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from dovetail_ort_export.passes.editing import by_name, find, producer_of
from dovetail_ort_runtime.bundle.graph_names import ATTENTION_BIAS

_ATTENTION: Final = "GroupQueryAttention"
_BIAS: Final = 10  # number of that input of the operator


class DropBias(ir.passes.InPlacePass):
    """Removes the input `attention_bias` and its conversions from a graph, which is then for chains only.

    A graph without that input is left alone.
    """

    def requires(self, model: ir.Model) -> None:
        """Check that only attention reads the bias, converted or not.

        Raises:
            PreconditionError: another operator reads it.
        """
        for value in _biases(model):
            for node, index in value.uses():
                if node.op_type != "Cast" and (node.op_type, index) != (_ATTENTION, _BIAS):
                    raise ir.passes.PreconditionError(f"{node.name} reads {value.name}, and is no attention")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove the bias, and its conversions before the attentions."""
        biases = _biases(model)
        if not biases:
            return ir.passes.PassResult(model, False)
        for attention in find(model, _ATTENTION):
            if len(attention.inputs) > _BIAS and attention.inputs[_BIAS] in biases:
                _shorten(attention)
        for value in reversed(biases[1:]):
            model.graph.remove(producer_of(value), safe=True)
        model.graph.inputs.remove(biases[0])
        return ir.passes.PassResult(model, True)


def _biases(model: ir.Model) -> list[ir.Value]:
    """The input and all conversions of it, each after what it is made from; empty where there is no such input."""
    bias = by_name(model.graph.inputs).get(ATTENTION_BIAS)
    found = [] if bias is None else [bias]
    for value in found:  # it grows by the conversions of conversions
        found += [node.outputs[0] for node, _ in value.uses() if node.op_type == "Cast"]
    return found


def _shorten(attention: ir.Node) -> None:
    """Remove the bias, and any inputs at the end that are not connected."""
    attention.replace_input_with(_BIAS, None)
    connected = [index for index, value in enumerate(attention.inputs) if value is not None]
    attention.resize_inputs(connected[-1] + 1)
