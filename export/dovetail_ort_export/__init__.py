"""Export a causal language model to a bundle, and train a draft head for it; needs the extra `[export]`.

checkpoint -> source -> tracing -> passes (quantization) -> writing, checking -> a bundle      exporter
a bundle -> training -> a head -> attach -> a bundle with a drafter
laboratory: what each graph pass costs and brings
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail_ort_export.attach import attach_drafter, detach_drafter
    from dovetail_ort_export.exporter import export_bundle
    from dovetail_ort_export.options import ExportOptions
    from dovetail_ort_export.training.options import TrainingInputs, TrainingOptions
    from dovetail_ort_export.training.trainer import train_head

__all__ = [
    "ExportOptions",
    "TrainingInputs",
    "TrainingOptions",
    "attach_drafter",
    "detach_drafter",
    "export_bundle",
    "train_head",
]

# torch takes seconds to import, so a module is loaded when one of its names is asked for.
_MODULES = {
    "ExportOptions": "options",
    "TrainingInputs": "training.options",
    "TrainingOptions": "training.options",
    "attach_drafter": "attach",
    "detach_drafter": "attach",
    "export_bundle": "exporter",
    "train_head": "training.trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
