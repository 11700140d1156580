"""Levels of the target's residual stream as one more output, for a drafter that reads them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from dovetail_ort_export.passes.editing import by_name
from dovetail_ort_export.passes.residual_stream import find_levels
from dovetail_ort_runtime.bundle.graph_names import DRAFTER_FEATURES, HIDDEN_STATES


class TapLevels(ir.passes.InPlacePass):
    """One more output of a finished target, `drafter_features` (B, S, k * E): k levels side by side.

    Level i is the input of block i, level L the output of the last block before the final norm.

    Args:
        levels: numbers of the levels, in order.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self._levels = tuple(levels)

    def requires(self, model: ir.Model) -> None:
        """The levels are in the graph, which has no features yet.

        Raises:
            PreconditionError: they are not, or it has.
        """
        if DRAFTER_FEATURES in by_name(model.graph.outputs):
            raise ir.passes.PreconditionError(f"the graph has the output {DRAFTER_FEATURES} already")
        last = len(find_levels(model)) - 1
        for level in self._levels:
            if not 0 <= level <= last:
                raise ir.passes.PreconditionError(f"level {level} must be between 0 and {last}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add the output."""
        graph = model.graph
        places = find_levels(model)
        states = by_name(graph.outputs)[HIDDEN_STATES]
        assert states.shape is not None
        *rows, width = states.shape
        assert isinstance(width, int)
        shape = ir.Shape([*rows, len(self._levels) * width])
        features = ir.val(DRAFTER_FEATURES, states.dtype, shape)
        side_by_side = ir.node(
            "Concat",
            [places[level].value() for level in self._levels],
            {"axis": -1},
            name=f"{DRAFTER_FEATURES}/Concat",
            outputs=[features],
        )
        graph.append(side_by_side)
        graph.outputs.insert(1 + graph.outputs.index(states), features)
        return ir.passes.PassResult(model, True)
