"""Residual addition and the norm that reads it in one operator."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern


class _SkipNormRule(pattern.RewriteRuleClassBase):
    """Add, SimplifiedLayerNormalization -> SkipSimplifiedLayerNormalization, which also hands out the sum."""

    def pattern(self, op: Any, x: ir.Value, skip: ir.Value, weight: ir.Value) -> tuple[Any, Any]:
        total = op.Add(x, skip)
        return op.SimplifiedLayerNormalization(total, weight, _allow_other_attributes=True, _outputs=["norm"]), total

    def check(self, context: Any, weight: ir.Value, norm: ir.Value, **_: Any) -> pattern.MatchResult:
        result = pattern.MatchResult()
        if weight.const_value is None:
            return result.fail("the norm's weight is not an initializer")
        return result

    def rewrite(
        self, op: Any, x: ir.Value, skip: ir.Value, weight: ir.Value, norm: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        producer = norm.producer()
        assert producer is not None
        epsilon = producer.attributes["epsilon"].as_float()
        normalised, _, _, total = op.SkipSimplifiedLayerNormalization(
            x, skip, weight, epsilon=epsilon, _domain="com.microsoft", _outputs=4
        )
        return normalised, total


class FuseSkipNorm(ir.passes.InPlacePass):
    """Fuses every residual `Add` with the `SimplifiedLayerNormalization` that reads its sum."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite all matches."""
        count = pattern.RewriteRuleSet([_SkipNormRule.rule()]).apply_to_model(model)
        return ir.passes.PassResult(model, count > 0)
