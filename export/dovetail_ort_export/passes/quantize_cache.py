"""Keys and values kept in 8 bits: a cache of a quarter of the size, dequantised inside attention."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from dovetail_ort_export.passes.base import NodePass
from dovetail_ort_export.passes.context import ExportPass, PassContext
from dovetail_ort_export.passes.editing import constant, find, input_of
from dovetail_ort_export.quantization.scales import LARGEST_CODE
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.errors import InputError

_PAST_KEY: Final = 3
_KEY_SCALE: Final = 12
_ATTRIBUTES: Final[dict[str, str | int]] = {
    "k_quant_type": "PER_CHANNEL",
    "v_quant_type": "PER_CHANNEL",
    "kv_cache_bit_width": 8,
}


class QuantizeCache(ExportPass, NodePass):
    """GroupQueryAttention over an INT8 cache, with a constant scale for each channel of keys and of values.

    New rows are rounded as they enter the cache, each by itself, and read back rounded in the same forward. Values
    beyond the measured range are clipped.

    Args:
        context: what the export of a target knows.

    Raises:
        InputError: it is the export of a drafter.
    """

    operators = ("GroupQueryAttention",)

    def __init__(self, context: PassContext) -> None:
        super().__init__(context)
        if context.cache_maxima is None:
            raise InputError("the pass quantize-cache is for a target's recipe; leave it out of a drafter's")
        self._maxima = context.cache_maxima

    def requires(self, model: ir.Model) -> None:
        """Check that every cache was measured, and is still in single precision.

        Raises:
            PreconditionError: a cache was not measured, or is in another precision.
        """
        for node in find(model, self.operators[0]):
            key = input_of(node, _PAST_KEY)
            if key.dtype not in (ir.DataType.FLOAT, ir.DataType.INT8):
                raise ir.passes.PreconditionError(f"{key.name} is not in float32")
            if _measured_name(key) not in self._maxima:
                raise ir.passes.PreconditionError(f"no range was measured for {key.name}")

    def _is_for(self, node: ir.Node) -> bool:
        return input_of(node, _PAST_KEY).dtype == ir.DataType.FLOAT

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        node.resize_inputs(_KEY_SCALE + 2)
        for part in (0, 1):  # keys, values
            past = input_of(node, _PAST_KEY + part)
            present = node.outputs[1 + part]
            name = _measured_name(past)
            scales = _channel_scales(self._maxima[name])
            node.replace_input_with(_KEY_SCALE + part, constant(model, f"cache.{name}.scale", scales))
            past.type = ir.TensorType(ir.DataType.INT8)
            present.type = ir.TensorType(ir.DataType.INT8)
        for attribute in ir.convenience.convert_attributes(_ATTRIBUTES):
            node.attributes.add(attribute)


def _channel_scales(largest: FloatArray) -> FloatArray:
    """Scales (Hkv * D,) float32 that bring the largest magnitude of each channel to 127; 1 where it is zero."""
    scales: FloatArray = np.where(largest > 0, largest / np.float32(LARGEST_CODE), np.float32(1)).astype(np.float32)
    return scales


def _measured_name(past: ir.Value) -> str:
    """`3.key` of `past_key_values.3.key`."""
    return str(past.name).partition(".")[2]
