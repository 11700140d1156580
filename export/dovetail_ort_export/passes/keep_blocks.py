"""Keep some blocks of a target, so that two graphs can run on two devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.passes.context import ExportPass, PassContext
from dovetail_ort_export.passes.editing import by_name, find, input_of
from dovetail_ort_runtime.bundle.graph_names import BLOCK_STATES, HIDDEN_STATES, is_past, is_present

_FIRST_NORM: Final = "model.layers.{}.input_layernorm.weight"


class KeepBlocks(ExportPass, ir.passes.FunctionalPass):
    """Cuts a target at the residual stream between two blocks, which becomes an output here or an input there.

    Block states are (B, S, E), what block `first` reads. The graph that begins with block 0 keeps the embedding, the
    one that ends with the last block keeps the final norm and the head. It is for graphs whose additions are not fused
    with norms yet.

    Args:
        context: what the export knows. `first_block` or `end_block` says where the cut is; without both there is none.
    """

    def __init__(self, context: PassContext) -> None:
        super().__init__(context)
        self._keeps_end = context.first_block > 0
        # The number of the block that begins after the cut; None if there is no cut.
        self._cut: int | None = context.first_block if self._keeps_end else context.end_block

    def requires(self, model: ir.Model) -> None:
        """Check that the block after the cut begins with a norm that is not fused with an addition.

        Raises:
            PreconditionError: that norm is fused.
        """
        if self._cut is not None and not _first_norms(model, self._cut):
            raise ir.passes.PreconditionError(
                f"block {self._cut} must begin with a norm of its own; keep-blocks must come before fuse-skip-norm"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Leave the other blocks out."""
        if self._cut is None:
            return ir.passes.PassResult(model.clone(), False)
        graph = model.graph
        (norm,) = _first_norms(model, self._cut)
        input_of(norm, 0).name = BLOCK_STATES
        inputs = self._kept_names(graph.inputs)
        outputs = self._kept_names(graph.outputs)
        if self._keeps_end:
            inputs.append(BLOCK_STATES)
        else:
            outputs = [BLOCK_STATES, *(name for name in outputs if is_present(name))]
        kept = _extracted(graph, inputs, outputs)
        states = by_name((*kept.inputs, *kept.outputs))[BLOCK_STATES]
        states.type = ir.TensorType(ir.DataType.FLOAT)
        states.shape = by_name(graph.outputs)[HIDDEN_STATES].shape
        part = ir.Model(kept, ir_version=model.ir_version)
        part.graph.opset_imports.update(graph.opset_imports)
        return ir.passes.PassResult(part, True)

    def _kept_names(self, values: Iterable[ir.Value]) -> list[str]:
        """Names of the inputs or outputs that stay: all but the caches of other blocks."""
        assert self._cut is not None
        kept = []
        for name in by_name(values):
            if is_past(name) or is_present(name):
                block = int(name.split(".")[1])
                is_behind_cut = block >= self._cut
                if is_behind_cut != self._keeps_end:
                    continue
            kept.append(name)
        return kept


def _extracted(graph: ir.Graph, inputs: list[str], outputs: list[str]) -> ir.Graph:
    """The part of a graph between inputs and outputs, with its initializers in the graph's order."""
    kept = ir.convenience.extract(graph, inputs, outputs)
    kept.name = graph.name
    in_order = {name: kept.initializers[name] for name in graph.initializers if name in kept.initializers}
    kept.initializers.clear()  # they come in the order of a set, and the same recipe must give the same bytes
    kept.initializers.update(in_order)
    return kept


def _first_norms(model: ir.Model, number: int) -> list[ir.Node]:
    """The norm that block `number` begins with, if it stands alone."""
    norms = find(model, "SimplifiedLayerNormalization")
    return [norm for norm in norms if input_of(norm, 1).name == _FIRST_NORM.format(number)]
