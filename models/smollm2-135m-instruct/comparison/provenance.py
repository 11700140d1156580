"""What every result file says of where it comes from."""

from __future__ import annotations

import datetime

import onnxruntime

from dovetail_ort_runtime.environment import processor_name


def measured_here() -> dict[str, str]:
    """This machine, this day, this ONNX Runtime."""
    return {
        "machine": processor_name(),
        "date": datetime.date.today().isoformat(),
        "onnxruntime": onnxruntime.__version__,
    }
