"""A bundle's graph, or any ONNX file, read for the laboratory."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from dovetail_ort_export.laboratory.subjects import DRAFTER, TARGET
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.errors import InputError


def graph_path(path: Path, graph: str) -> Path:
    """Where the ONNX file lies that is meant: `path` itself, or the graph `graph` of the bundle there.

    Raises:
        InputError: the bundle has no such graph.
        BundleError: there is neither a file nor a bundle.
    """
    if path.is_file():
        return path
    bundle = Bundle(path)
    entry = {TARGET: bundle.manifest.target, DRAFTER: bundle.manifest.drafter}[graph]
    if entry is None:
        raise InputError(f"the bundle must have a {graph}, got none in {str(path)!r}; see dovetail-ort attach")
    return bundle.path(entry.graph)


def load_graph(path: Path) -> ir.Model:
    """An ONNX file whose weights lie in it or beside it; they are read when they are asked for.

    Raises:
        InputError: it is no ONNX graph, or its weights lie elsewhere.
    """
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf and onnx-ir raise classes of their own
        raise InputError(f"{path.name} must be an ONNX graph, got: {error}") from error
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and not _is_beside(path, str(tensor.location)):
            raise InputError(
                f"the weights of {path.name} must lie beside it, got {tensor.location!r} for {name}; export it again"
            )
    return model


def _is_beside(path: Path, location: str) -> bool:
    beside = path.parent / location
    return Path(location).name == location and beside.is_file() and beside.resolve().parent == path.parent.resolve()
