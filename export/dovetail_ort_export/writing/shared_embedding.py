"""A drafter that looks tokens up in its target's embedding, which lies in the target's file and stands once.

It knows the first norm of an EAGLE-3 head, which alone reads the embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dovetail_ort_export.passes.editing import by_name, input_of
from dovetail_ort_export.passes.residual_stream import find_levels
from dovetail_ort_export.writing.graph_file import load_graph
from dovetail_ort_runtime.bundle.formats import FP16, NATIVE
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry, TargetEntry
from dovetail_ort_runtime.bundle.graph_names import INPUT_IDS

_NORM: Final = "head.layers.0.input_layernorm.weight"
_PREFIX: Final = "target/"


def share_embedding(graph: ir.Model, drafter: DrafterEntry, target: TargetEntry, folder: Path) -> bool:
    """Put the target's own lookup of tokens into the place of the drafter's.

    Nothing changes where the two have operators of different kinds, or where the drafter is in fp16, for a GPU.

    Args:
        graph: graph of an EAGLE-3 head that reads the embedding of its target.
        drafter: what a manifest says of the graph.
        target: what a manifest says of its target, whose graphs lie in the folder.
        folder: folder that the drafter's graph will lie in.

    Returns:
        Whether the embedding is shared.
    """
    path = _target_graph(drafter, target, folder)
    if path is None:
        return False
    model = load_graph(path, reads_weights=False)
    embedded = find_levels(model)[0].value()
    lookup = ir.convenience.extract(model.graph, [INPUT_IDS], [str(embedded.name)])
    result = _transplanted(graph, lookup)
    (norm, _), *_ = graph.graph.initializers[_NORM].uses()
    input_of(norm, 0).replace_all_uses_with(result)
    graph.graph.sort()
    RemoveUnusedNodesPass()(graph)
    graph.graph.opset_imports.update(model.graph.opset_imports)
    return True


def _target_graph(drafter: DrafterEntry, target: TargetEntry, folder: Path) -> Path | None:
    """The whole graph of the target in operators of the drafter's kind, or None."""
    if FP16 in (drafter.precision, target.precision) or target.front_graph is not None:
        return None
    if drafter.format == target.format:
        return folder / target.graph
    if drafter.format == NATIVE or target.portable_graph is None:
        return None
    return (folder / target.graph).with_name(target.portable_graph)


def _transplanted(model: ir.Model, lookup: ir.Graph) -> ir.Value:
    """What a graph with one input and one output gives, within a model that has the same input."""
    output = lookup.outputs[0]
    (token_ids,) = lookup.inputs
    token_ids.replace_all_uses_with(by_name(model.graph.inputs)[INPUT_IDS])
    for name, value in list(lookup.initializers.items()):
        lookup.initializers.pop(name)
        value.name = f"{_PREFIX}{name}"
        model.graph.register_initializer(value)
    lookup.outputs.clear()
    for node in list(lookup):
        lookup.remove(node)
        node.name = f"{_PREFIX}{node.name}"
        for result in node.outputs:
            result.name = f"{_PREFIX}{result.name}"
        model.graph.append(node)
    return output
