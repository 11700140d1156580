"""Export a causal language model to a bundle; needs torch, transformers, optimum and onnx (extra `[export]`)."""

from __future__ import annotations

from typing import Any

__all__ = ["ExportOptions", "export_bundle"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: it is loaded when a name that needs it is asked for.
    if name == "ExportOptions":
        from dovetail_ort_export.options import ExportOptions

        return ExportOptions
    if name == "export_bundle":
        from dovetail_ort_export.exporter import export_bundle

        return export_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
