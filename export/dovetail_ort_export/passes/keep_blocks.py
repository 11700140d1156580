"""Some blocks of a target, so that two graphs can run on two devices."""

from __future__ import annotations

import sys
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.passes import OfExport, PassContext, nodes
from dovetail_ort_runtime.bundle.graph_names import BLOCK_STATES

_FIRST_NORM: Final = "model.layers.{}.input_layernorm.weight"


class KeepBlocks(OfExport, ir.passes.FunctionalPass):
    """Cuts a target at the residual stream between two blocks, which becomes an output here or an input there.

    Block states are (B, S, E), what block `first` reads. The graph that begins with block 0 keeps the embedding, the
    one that ends with the last block keeps the final norm and the head. It is for graphs whose additions are not fused
    with norms yet.
    """

    def __init__(self, context: PassContext) -> None:
        super().__init__(context)
        self._first, self._end = context.first_block, context.end_block
        self._number = self._first or self._end or 0  # of the block before which the cut is; 0 if there is none

    def requires(self, model: ir.Model) -> None:
        """The seam is an addition that no norm has swallowed."""
        if self._number and not _first_norms(model, self._number):
            raise ir.passes.PreconditionError(
                f"block {self._number} must begin with a norm of its own; keep-blocks stands before fuse-skip-norm"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Leave the other blocks out."""
        if not self._number:
            return ir.passes.PassResult(model.clone(), False)
        graph = model.graph
        (norm,) = _first_norms(model, self._number)
        nodes.input_of(norm, 0).name = BLOCK_STATES
        inputs, outputs = (
            [name for name in nodes.by_name(values) if self._is_kept(name)] for values in (graph.inputs, graph.outputs)
        )
        if self._first:
            inputs.append(BLOCK_STATES)
        else:
            outputs = [BLOCK_STATES, *(name for name in outputs if name.startswith("present."))]
        kept = ir.convenience.extract(graph, inputs, outputs)
        kept.name = graph.name
        in_order = {name: kept.initializers[name] for name in graph.initializers if name in kept.initializers}
        kept.initializers.clear()  # they come in the order of a set, and the same recipe must give the same bytes
        kept.initializers.update(in_order)
        states = nodes.by_name((*kept.inputs, *kept.outputs))[BLOCK_STATES]
        states.type = ir.TensorType(ir.DataType.FLOAT)
        states.shape = nodes.by_name(graph.outputs)["hidden_states"].shape
        cut = ir.Model(kept, ir_version=model.ir_version)
        cut.graph.opset_imports.update(graph.opset_imports)
        return ir.passes.PassResult(cut, True)

    def _is_kept(self, name: str) -> bool:
        """Whether an input or output is no cache, or that of a block that stays."""
        return "." not in name or int(name.split(".")[1]) in range(self._first, self._end or sys.maxsize)


def _first_norms(model: ir.Model, number: int) -> list[ir.Node]:
    """The norm that block `number` begins with, if it stands alone."""
    norms = nodes.find(model, "SimplifiedLayerNormalization")
    return [norm for norm in norms if nodes.input_of(norm, 1).name == _FIRST_NORM.format(number)]
