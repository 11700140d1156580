"""A graph of two nodes that shows whether CUDA computes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_runtime.engine.devices import CUDA
from dovetail_ort_runtime.engine.session import device_errors, open_session

# The ONNX file of d = a @ b + a, each 2 x 2 in float32: a product of cuBLAS, and a kernel of ONNX Runtime's own.
_PRODUCT_AND_SUM: Final = (
    b'\x08\x08:d\n\x11\n\x01a\n\x01b\x12\x01c"\x06MatMul\n\x0e\n\x01c\n\x01a\x12\x01d"\x03Add\x12\x00'
    b"Z\x13\n\x01a\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02\n\x02\x08\x02"
    b"Z\x13\n\x01b\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02\n\x02\x08\x02"
    b"b\x13\n\x01d\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02\n\x02\x08\x02B\x04\n\x00\x10\r"
)


def run_trial(device: str = CUDA) -> None:
    """Run it.

    Raises:
        UnavailableError: CUDA cannot be used; why and what to do.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "trial.onnx"
        graph.write_bytes(_PRODUCT_AND_SUM)
        session = open_session(graph, 1, device=device)
    numbers = np.ones((2, 2), dtype=np.float32)
    with device_errors():
        session.run(None, {"a": numbers, "b": numbers})
