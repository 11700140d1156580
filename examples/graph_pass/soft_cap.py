"""A pass from another package: after `pip install examples/graph_pass` a recipe can name `soft-cap`."""

from __future__ import annotations

import onnx_ir as ir


class SoftCap(ir.passes.InPlacePass):
    """logits -> cap * tanh(logits / cap): the order of the tokens stays, up to rounding."""

    def __init__(self, cap: float = 30.0) -> None:
        super().__init__()
        self.cap = cap

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Append the cap, for a recipe with `{ pass = "soft-cap", cap = 30.0 }` or only "soft-cap"."""
        logits = next(value for value in model.graph.outputs if value.name == "logits")
        cap = ir.node("Constant", [], {"value_float": self.cap})
        ratio = ir.node("Div", [logits, cap.outputs[0]])
        bounded = ir.node("Tanh", [ratio.outputs[0]])
        scaled = ir.node("Mul", [bounded.outputs[0], cap.outputs[0]])
        model.graph.extend([cap, ratio, bounded, scaled])
        logits.name = "uncapped_logits"
        capped = scaled.outputs[0]
        capped.name = "logits"
        capped.shape = logits.shape
        capped.type = logits.type
        model.graph.outputs[model.graph.outputs.index(logits)] = capped
        return ir.passes.PassResult(model, modified=True)
