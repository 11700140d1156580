"""Fuse a residual addition and the norm that reads it into one operator."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from dovetail_ort_export.passes.editing import ONNXRUNTIME_DOMAIN, find, input_of, producer_of


class FuseSkipNorm(ir.passes.InPlacePass):
    """Add, SimplifiedLayerNormalization -> SkipSimplifiedLayerNormalization, which also hands out the sum."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite all matches."""
        rule = pattern.RewriteRule(_add_and_norm, _skip_norm)
        return ir.passes.PassResult(model, rule.apply_to_model(model) > 0)

    def ensures(self, model: ir.Model) -> None:
        """Check that no norm reads an addition.

        Raises:
            PostconditionError: a norm reads an addition.
        """
        for norm in find(model, "SimplifiedLayerNormalization"):
            total = input_of(norm, 0).producer()
            if total is not None and total.op_type == "Add" and not total.domain:
                raise ir.passes.PostconditionError(f"{norm.name} still reads the addition {total.name}")


def _add_and_norm(op: Any, x: ir.Value, skip: ir.Value, weight: ir.Value) -> tuple[Any, Any]:
    total = op.Add(x, skip)
    return op.SimplifiedLayerNormalization(total, weight, _allow_other_attributes=True, _outputs=["norm"]), total


def _skip_norm(op: Any, x: ir.Value, skip: ir.Value, weight: ir.Value, norm: ir.Value) -> tuple[ir.Value, ir.Value]:
    epsilon = producer_of(norm).attributes["epsilon"].as_float()
    normalised, _, _, total = op.SkipSimplifiedLayerNormalization(
        x, skip, weight, epsilon=epsilon, _domain=ONNXRUNTIME_DOMAIN, _outputs=4
    )
    return normalised, total
