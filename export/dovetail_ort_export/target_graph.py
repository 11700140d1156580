"""A transformers model as a target graph, its weights still unread; and how graphs are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
from tqdm import tqdm

from dovetail_ort_export.pass_catalogue import PassContext
from dovetail_ort_export.pass_pipeline import apply_recipe
from dovetail_ort_export.recipe import Recipe
from dovetail_ort_export.tracing import trace_target

# Offsets at whole pages let the runtime map the weights instead of reading them.
_PAGE_BYTES: Final = 4096


def target_graph(model: Any, recipe: Recipe, context: PassContext) -> ir.Model:
    """What `recipe` makes of a model.

    Args:
        model: transformers causal LM, its weights anywhere; those of the graph are the context's.
        recipe: of a target.
        context: of this export.

    Raises:
        InputError: a pass is unknown or does not fit its place.
        SourceError: the model's dimensions do not suit the number format.
    """
    return apply_recipe(trace_target(model), recipe, context)


def save_graph(graph: ir.Model, path: Path) -> None:
    """Write graph and weights, computing each weight as it is written; a bar shows the progress on a terminal."""
    with tqdm(total=len(graph.graph.initializers), unit=" tensors", leave=False, disable=None) as bar:
        ir.save(
            graph,
            path,
            external_data=f"{path.name}_data",
            alignment=_PAGE_BYTES,
            callback=lambda tensor, info: bar.update() and None,  # noqa: ARG005  onnx-ir's signature
        )
