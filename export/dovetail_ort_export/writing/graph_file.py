"""An ONNX file with its weights beside it, read and written one weight at a time. It knows no operator."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

import onnx_ir as ir
from onnx_ir.external_data import convert_tensors_to_external
from tqdm import tqdm

from dovetail_ort_runtime.bundle.formats import FP16, FP32, INT4, INT8, NATIVE, PORTABLE
from dovetail_ort_runtime.bundle.hub_cache import Snapshot
from dovetail_ort_runtime.errors import InputError, one_line

# Offsets at whole pages let the runtime map the weights instead of reading them.
_PAGE_BYTES: Final = 4096
# What is smaller stays in the graph's file, where ONNX Runtime reads the shapes of a Reshape.
_INLINE_BYTES: Final = 256
_SUFFIXES: Final = {INT8: "_quantized", INT4: "_q4", FP16: "_fp16", FP32: ""}


def graph_name(part: str, precision: str, graph_format: str = PORTABLE) -> str:
    """Name of a graph's file in a bundle.

    Args:
        part: `model` or `drafter`.
        precision: number format of most weights.
        graph_format: format of its operators, `native` or `portable`.
    """
    suffix = "_native" if graph_format == NATIVE else _SUFFIXES[precision]
    return f"{part}{suffix}.onnx"


def load_graph(path: Path, *, reads_weights: bool = True) -> ir.Model:
    """An ONNX graph whose weights lie in its file or beside it; they are read when they are asked for.

    Args:
        path: ONNX file.
        reads_weights: whether weights in other files may be asked for, which must have one name then: onnx-ir reads no
            file with two.

    Raises:
        InputError: it is no ONNX graph, its weights lie elsewhere, or they cannot be read because of a hard link.
    """
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf and onnx-ir raise classes of their own
        raise InputError(f"{path.name} is not an ONNX graph: {one_line(error)}") from error
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        if not _is_beside(path, str(tensor.location)):
            raise InputError(
                f"the weights of {path.name} must lie beside it, got {tensor.location!r} for {name}; export it again"
            )
        value.const_value = _without_links(path, tensor)
        if reads_weights:
            _check_single_name(path, Path(value.const_value.path))
    return model


def save_graph(graph: ir.Model, path: Path) -> None:
    """Write graph and weights, computing each weight as it is written; a bar shows the progress on a terminal."""
    with tqdm(total=len(graph.graph.initializers), unit=" tensors", leave=False, disable=None) as bar:

        def advance(*_: object) -> None:
            bar.update()

        ir.save(graph, path, external_data=f"{path.name}_data", alignment=_PAGE_BYTES, callback=advance)


def save_graph_over(graph: ir.Model, path: Path, owner: Path) -> None:
    """Write a graph that shares the file of weights with a graph that was saved beside it, by the weights' names.

    Args:
        graph: graph to write.
        path: file of the graph.
        owner: file of the graph that has all the weights.
    """
    written = load_graph(owner).graph.initializers
    for name, value in graph.graph.initializers.items():
        value.const_value = written[name].const_value
    ir.save(graph, path)


def save_graph_beside(graph: ir.Model, path: Path) -> None:
    """Write a graph whose weights lie in other files of its folder already, but for new ones, which get a file.

    Args:
        graph: graph to write, of `load_graph` and perhaps changed.
        path: file of the graph.
    """
    new = {}
    for name, value in graph.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.ExternalTensor) or tensor.nbytes <= _INLINE_BYTES:
            continue
        new[name] = tensor
    if new:
        data = f"{path.name}_data"
        written = convert_tensors_to_external(list(new.values()), path.parent, data, alignment=_PAGE_BYTES)
        for name, tensor in zip(new, written, strict=True):
            graph.graph.initializers[name].const_value = tensor
    ir.save(graph, path)


def _is_beside(path: Path, location: str) -> bool:
    """Whether a file lies in the directory of `path`, or is a link of the hub's cache there."""
    beside = path.parent / location
    if Path(location).name != location or not beside.is_file():
        return False
    if beside.resolve().parent == path.parent.resolve():
        return True
    snapshot = Snapshot.around(path.parent)
    return snapshot is not None and beside.is_symlink() and snapshot.links_to_blob(beside)


def _check_single_name(path: Path, file: Path) -> None:
    """Refuse a hard link, which onnx-ir takes for an attack when it reads the file."""
    if file.stat().st_nlink > 1:
        raise InputError(
            f"{file.name} has a second name on this disk, a hard link, and ONNX reads no such file; work on a copy of "
            f"the bundle, made with: cp -rL {shlex.quote(str(path.parent))} bundle"
        )


def _without_links(path: Path, tensor: ir.ExternalTensor) -> ir.ExternalTensor:
    """The tensor by the real path of its file: onnx-ir follows no link."""
    file = (path.parent / str(tensor.location)).resolve()
    return ir.ExternalTensor(
        file.name,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        base_dir=file.parent,
    )
