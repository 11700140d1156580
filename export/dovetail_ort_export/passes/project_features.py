"""Tapped levels through the first product of a drafter's head, so that the target hands out F numbers a row."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from dovetail_ort_export.heads.taps import Taps
from dovetail_ort_export.passes.editing import SKELETON_DOMAIN, by_name, constant, input_of, label, producer_of
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.graph_names import DRAFTER_FEATURES


class ProjectFeatures(ir.passes.InPlacePass):
    """`drafter_features` of tap-levels -> (B, S, F): norms, product and bias of a head, still to be lowered.

    Args:
        taps: what the head makes of the levels; its weight is there.
    """

    def __init__(self, taps: Taps) -> None:
        super().__init__()
        assert taps.weight is not None
        self._taps = taps
        self._weight = taps.weight

    def requires(self, model: ir.Model) -> None:
        """The levels are tapped, and fit the weight.

        Raises:
            PreconditionError: they are not, or do not.
        """
        levels = by_name(model.graph.outputs).get(DRAFTER_FEATURES)
        if levels is None:
            raise ir.passes.PreconditionError(f"the graph has no output {DRAFTER_FEATURES}")
        assert levels.shape is not None
        if levels.shape[2] != self._weight.shape[1]:
            raise ir.passes.PreconditionError(
                f"{len(self._taps.levels)} levels have {levels.shape[2]} numbers a row, and the head's fc reads "
                f"{self._weight.shape[1]}"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Put norms before the levels are joined and after it, then the product and the bias."""
        graph = model.graph
        levels = by_name(graph.outputs)[DRAFTER_FEATURES]
        levels.name = f"{DRAFTER_FEATURES}/levels"
        concat = producer_of(levels)
        for index, weight in enumerate(self._taps.level_norms or ()):
            norm = self._norm(model, input_of(concat, index), f"level_norm.{index}", weight)
            graph.insert_before(concat, norm)
            concat.replace_input_with(index, norm.outputs[0])
        new = self._behind(model, levels)
        graph.extend(new)
        self._hand_out(model, levels, new[-1].outputs[0])
        return ir.passes.PassResult(model, True)

    def _behind(self, model: ir.Model, levels: ir.Value) -> list[ir.Node]:
        """What stands behind the levels side by side."""
        new = []
        read = levels
        if self._taps.norm_before_fc is not None:
            new.append(self._norm(model, read, "norm", self._taps.norm_before_fc))
            read = new[-1].outputs[0]
        weight = constant(model, f"{DRAFTER_FEATURES}.fc.weight", self._weight)
        new.append(_labelled(ir.node("Linear", [read, weight], domain=SKELETON_DOMAIN), "fc"))
        if self._taps.bias is not None:
            bias = constant(model, f"{DRAFTER_FEATURES}.fc.bias", self._taps.bias)
            new.append(_labelled(ir.node("Add", [new[-1].outputs[0], bias]), "fc"))
        return new

    def _norm(self, model: ir.Model, x: ir.Value, name: str, weight: FloatArray) -> ir.Node:
        attributes: dict[str, Any] = {"axis": -1, "epsilon": self._taps.norm_epsilon}
        scale = constant(model, f"{DRAFTER_FEATURES}.{name}.weight", weight)
        return _labelled(ir.node("SimplifiedLayerNormalization", [x, scale], attributes), name)

    def _hand_out(self, model: ir.Model, levels: ir.Value, features: ir.Value) -> None:
        """Make the features the output of that name."""
        assert levels.shape is not None
        features.name = DRAFTER_FEATURES
        features.type = levels.type
        features.shape = ir.Shape([*levels.shape[:2], len(self._weight)])
        outputs = model.graph.outputs
        outputs[outputs.index(levels)] = features


def _labelled(node: ir.Node, name: str) -> ir.Node:
    label([node], f"{DRAFTER_FEATURES}/{name}")
    return node
