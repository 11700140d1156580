"""Keys and values kept in 8 bits: a cache of a quarter of the size, dequantised inside attention."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes import OfExport, PassContext, nodes
from dovetail_ort_runtime.errors import InputError

_LARGEST: Final = 127
_PAST_KEY: Final = 3
_KEY_SCALE: Final = 12
_ATTRIBUTES: Final[dict[str, str | int]] = {
    "k_quant_type": "PER_CHANNEL",
    "v_quant_type": "PER_CHANNEL",
    "kv_cache_bit_width": 8,
}


class QuantizeCache(OfExport, nodes.NodePass):
    """GroupQueryAttention over an INT8 cache, with a constant scale for each channel of keys and of values.

    New rows are rounded as they enter the cache, each by itself, and read back rounded in the same forward. What is
    beyond the measured range is cut off.

    Args:
        context: of a target's export.

    Raises:
        InputError: it is the export of a drafter.
    """

    operators = ("GroupQueryAttention",)

    def __init__(self, context: PassContext) -> None:
        super().__init__(context)
        if context.cache_maxima is None:
            raise InputError("the pass quantize-cache must stand in a target's recipe, got a drafter's")
        self._maxima = context.cache_maxima

    def requires(self, model: ir.Model) -> None:
        """Every cache is measured, and in single precision still."""
        for node in nodes.find(model, self.operators[0]):
            key = nodes.input_of(node, _PAST_KEY)
            if key.dtype not in (ir.DataType.FLOAT, ir.DataType.INT8):
                raise ir.passes.PreconditionError(f"{key.name} is not in float32")
            if _measured_name(key) not in self._maxima:
                raise ir.passes.PreconditionError(f"no range was measured for {key.name}")

    def _is_for(self, node: ir.Node) -> bool:
        return nodes.input_of(node, _PAST_KEY).dtype == ir.DataType.FLOAT

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        node.resize_inputs(_KEY_SCALE + 2)
        for index in (0, 1):  # keys, values
            past = nodes.input_of(node, _PAST_KEY + index)
            name = _measured_name(past)
            largest = self._maxima[name]
            scales = np.where(largest > 0, largest / np.float32(_LARGEST), np.float32(1)).astype(np.float32)
            node.replace_input_with(_KEY_SCALE + index, nodes.constant(model, f"cache.{name}.scale", scales))
            past.type = node.outputs[1 + index].type = ir.TensorType(ir.DataType.INT8)
        for attribute in ir.convenience.convert_attributes(_ATTRIBUTES):
            node.attributes.add(attribute)


def _measured_name(past: ir.Value) -> str:
    """`3.key` of `past_key_values.3.key`."""
    return str(past.name).partition(".")[2]
