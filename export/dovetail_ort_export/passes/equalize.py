"""The weights of an equal model that is easier to quantise, and the rotations that its two ends need."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from dovetail_ort_export.equalization import EqualizedWeights
from dovetail_ort_export.pass_context import PassContext
from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.rotate_ends import RotateEnds


class Equalize(ir.passes.InPlacePass):
    """Rotate the residual stream and move ranges from activations into weights, all folded into the weights.

    A block norm's weight learns the largest magnitude that the norm's output had, so that a lowering can quantise that
    output by a constant. It is for bound weights that are neither packed nor lowered.

    Args:
        weights: of the equal model, or None to leave the graph as it is.
    """

    def __init__(self, weights: EqualizedWeights | None) -> None:
        super().__init__()
        self._weights = weights

    @classmethod
    def from_context(cls, context: PassContext) -> Equalize:
        """The pass of one export."""
        return cls(context.equalized)

    def requires(self, model: ir.Model) -> None:
        """Every weight that changes stands in the graph by its own name."""
        names = () if self._weights is None else self._weights.edited_names
        if missing := [name for name in names if name not in model.graph.initializers]:
            raise ir.passes.PreconditionError(
                f"no weight {missing[0]} in the graph; equalize stands after bind-weights, before what packs or lowers"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the weights and rotate the ends."""
        weights = self._weights
        if weights is None:
            return ir.passes.PassResult(model, False)
        for name in weights.edited_names:
            value = model.graph.initializers[name]
            value.const_value = nodes.lazy_tensor(partial(weights.__getitem__, name), weights.shape(name))
            value.const_value.name = name
        for name, largest in weights.ranges.items():
            model.graph.initializers[name].meta[nodes.LARGEST_OUTPUT] = largest
        RotateEnds(weights.rotation)(model)
        return ir.passes.PassResult(model, True)
