"""A graph opened in ONNX Runtime, ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dovetail_ort_runtime.environment import import_onnxruntime
from dovetail_ort_runtime.errors import BundleError
from dovetail_ort_runtime.huge_pages import huge_pages


def open_session(graph: Path, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU provider.

    Args:
        graph: path of the ONNX file.
        threads: of one pass.

    Raises:
        BundleError: ONNX Runtime refuses the graph.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors come as exceptions
    # Threads that spin between passes take the core from whatever runs there: another session, the drafter.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        with huge_pages():
            session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own classes straight from C++
        raise BundleError(f"{graph.name} must load in ONNX Runtime {ort.__version__}, got: {error}") from error
    session.disable_fallback()
    return session
