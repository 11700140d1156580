"""Passes found by name, made, and run one after the other: built-in ones, those of other packages, any class."""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.passes import BUILT_IN_PASSES, PassType
from dovetail_ort_export.passes.context import ExportPass, PassContext
from dovetail_ort_export.passes.editing import SKELETON_DOMAIN
from dovetail_ort_export.recipe import Recipe, Step
from dovetail_ort_runtime.errors import DovetailError, InputError, one_line

ENTRY_POINT_GROUP: Final = "dovetail_ort.passes"


def pass_types() -> dict[str, PassType]:
    """All passes that have names, the built-in ones first.

    Raises:
        InputError: a pass that another package announces cannot be imported.
    """
    announced = {point.name: _load(point) for point in _announced()}
    return {**BUILT_IN_PASSES, **announced}


def find_pass(name: str) -> PassType:
    """The class that a name stands for.

    Args:
        name: name of a built-in pass, name of an entry point, or `module:Class`.

    Raises:
        InputError: there is no such pass, it cannot be imported, or it is no `onnx_ir.passes.PassBase`.
    """
    if name in BUILT_IN_PASSES:
        return BUILT_IN_PASSES[name]
    if ":" in name:
        return _load(EntryPoint(name, name, ENTRY_POINT_GROUP))
    for point in _announced():
        if point.name == name:
            return _load(point)
    raise InputError(f"a pass must be module:Class or a name that `dovetail-ort graph passes` lists, got {name!r}")


def make_pass(step: Step, context: PassContext | None = None) -> ir.passes.PassBase:
    """The pass of one step of a recipe.

    Args:
        step: name and options of the pass.
        context: what the export knows; None for a graph that is finished already.

    Raises:
        InputError: there is no such pass, it does not have such options, or it needs a context and there is none.
    """
    pass_type = find_pass(step.name)
    arguments: tuple[PassContext, ...] = ()
    if issubclass(pass_type, ExportPass):
        if context is None:
            raise InputError(
                f"the pass {step.name} needs the original model, and this graph is finished; "
                "name it in a recipe for dovetail-ort export --recipe"
            )
        arguments = (context,)
    try:
        inspect.signature(pass_type).bind(*arguments, **step.options)
    except TypeError as error:
        raise InputError(f"the pass {step.name} does not have these options: {one_line(error)}") from error
    return pass_type(*arguments, **step.options)


def summary(pass_type: PassType) -> str:
    """The first line of a pass's documentation."""
    return inspect.cleandoc(pass_type.__doc__ or "not documented").partition("\n")[0]


def apply_recipe(graph: ir.Model, recipe: Recipe, context: PassContext) -> ir.Model:
    """The graph that a recipe makes of a traced one.

    Args:
        graph: skeleton graph, which must not be used afterwards.
        recipe: passes in their order.
        context: what the export knows.

    Raises:
        InputError: a pass is unknown or does not fit its place, or operators of the trace are left in the end.
    """
    for step in recipe.steps:
        graph = run_pass(graph, str(step), make_pass(step, context)).model
    left = sorted({node.op_type for node in graph.graph if node.domain == SKELETON_DOMAIN})
    if left:
        raise InputError(
            f"the recipe leaves operators of the trace in the graph: {', '.join(left)}; add one of the passes lower-..."
        )
    graph.opset_imports.pop(SKELETON_DOMAIN, None)
    return graph


def run_pass(graph: ir.Model, name: str, graph_pass: ir.passes.PassBase) -> ir.passes.PassResult:
    """Run one pass, and turn any exception into an error of one line.

    Args:
        graph: graph to transform.
        name: name of the pass in errors.
        graph_pass: pass to run.

    Raises:
        InputError: a condition of the pass does not hold, or the pass fails.
    """
    try:
        return graph_pass(graph)
    except DovetailError:
        raise
    except ir.passes.PreconditionError as error:
        reason = one_line(error.__cause__ or error)
        raise InputError(f"the pass {name} does not fit this graph: {reason}") from error
    except ir.passes.PostconditionError as error:
        reason = one_line(error.__cause__ or error)
        raise InputError(f"the pass {name} did not do what it promises: {reason}") from error
    except Exception as error:  # somebody else's pass can raise anything
        raise InputError(f"the pass {name} failed with {type(error).__name__}: {one_line(error)}") from error


def _announced() -> list[EntryPoint]:
    return sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)


def _load(point: EntryPoint) -> PassType:
    module, _, attribute = point.value.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module of somebody else can raise anything
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"the pass {point.name} cannot be imported: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, ir.passes.PassBase)):
        raise InputError(f"the pass {point.name} must be a subclass of onnx_ir.passes.PassBase, got {found!r}")
    return found
