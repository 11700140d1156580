"""Names of graph formats and number formats, as manifest, recipes and command line spell them. It knows no graph."""

from __future__ import annotations

from typing import Final

# Which operators a graph is made of: those of this project, or those of a stock ONNX Runtime.
NATIVE: Final = "native"
PORTABLE: Final = "portable"
GRAPH_FORMATS: Final = (NATIVE, PORTABLE)

# How most weights of a graph are stored.
INT8: Final = "int8"
INT4: Final = "int4"
FP16: Final = "fp16"
FP32: Final = "fp32"
NUMBER_FORMATS: Final = (INT8, INT4, FP16, FP32)
# How a native graph stores keys and values.
KV_CACHES: Final = (FP16, FP32)
