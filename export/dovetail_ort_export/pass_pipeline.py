"""Run the passes of a recipe over a graph, one after the other, each held to its own conditions."""

from __future__ import annotations

import onnx_ir as ir

from dovetail_ort_export.pass_catalogue import make_pass
from dovetail_ort_export.pass_context import PassContext
from dovetail_ort_export.recipe import Recipe
from dovetail_ort_runtime.errors import DovetailError, InputError

_SKELETON_DOMAIN = "dovetail"


def apply_recipe(graph: ir.Model, recipe: Recipe, context: PassContext) -> ir.Model:
    """The graph that a recipe makes of a traced one.

    Raises:
        InputError: a pass is unknown or does not fit its place, or operators of the trace are left in the end.
    """
    for step in recipe.steps:
        graph = run_pass(graph, str(step), make_pass(step, context)).model
    left = sorted({node.op_type for node in graph.graph if node.domain == _SKELETON_DOMAIN})
    if left:
        raise InputError(
            f"a recipe must lower every operator of the trace, got {', '.join(left)} in the end; "
            "add one of the passes lower-..."
        )
    graph.opset_imports.pop(_SKELETON_DOMAIN, None)
    return graph


def run_pass(graph: ir.Model, name: str, graph_pass: ir.passes.PassBase) -> ir.passes.PassResult:
    """One pass; what it raises becomes one line.

    Raises:
        InputError: a condition of the pass does not hold, or the pass fails.
    """
    try:
        return graph_pass(graph)
    except DovetailError:
        raise
    except ir.passes.PreconditionError as error:
        raise InputError(f"the pass {name} must find what it needs, got: {error.__cause__ or error}") from error
    except ir.passes.PostconditionError as error:
        raise InputError(f"the pass {name} must keep its promise, got: {error.__cause__ or error}") from error
    except Exception as error:  # somebody else's pass can raise anything
        raise InputError(f"the pass {name} must run, got {type(error).__name__}: {error}") from error
