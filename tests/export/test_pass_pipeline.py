"""Passes in the order of a recipe: conditions that do not hold, passes that fail, operators that are left."""

import onnx_ir as ir
import pytest

from dovetail_ort_export.pass_context import PassContext
from dovetail_ort_export.pass_pipeline import apply_recipe, run_pass
from dovetail_ort_export.recipe import Recipe, Step, built_in_recipe
from dovetail_ort_runtime.errors import InputError, SourceError


@pytest.fixture(scope="module")
def apply(tiny_model):
    """`apply(*passes)`: a traced tiny Llama after the passes of a recipe."""
    from dovetail_ort_export.tracing import trace_target
    from dovetail_ort_export.weights import Weights

    model = tiny_model("llama")
    context = PassContext(weights=Weights(model, max_context=512))

    def run(*passes):
        return apply_recipe(trace_target(model), Recipe("int8", tuple(map(Step, passes))), context)

    return run


class Raises(ir.passes.InPlacePass):
    """Raises what it is given, where it is told to."""

    def __init__(self, error, where="call"):
        super().__init__()
        self.error, self.where = error, where

    def act(self, where):
        if where == self.where:
            raise self.error

    def requires(self, model):
        self.act("requires")

    def call(self, model):
        self.act("call")
        return ir.passes.PassResult(model, False)

    def ensures(self, model):
        self.act("ensures")


def empty_graph():
    return ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 18]> graph (float[1] x) => (float[1] y) {y = Relu(x)}'
    )


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("requires", ir.passes.PreconditionError("no weight"), "the pass x must find what it needs, got: no weight"),
        ("ensures", ir.passes.PostconditionError("one left"), "the pass x must keep its promise, got: one left"),
        ("call", KeyError("gone"), "the pass x must run, got KeyError: 'gone'"),
    ],
)
def test_what_a_pass_raises_is_one_line_that_names_it(where, error, message):
    with pytest.raises(InputError) as found:
        run_pass(empty_graph(), "x", Raises(error, where))
    assert str(found.value) == message


def test_an_error_of_our_own_passes_through():
    error = SourceError("the width must be a multiple of 32, got 48; take another")
    with pytest.raises(SourceError) as found:
        run_pass(empty_graph(), "x", Raises(error))
    assert found.value is error


def test_a_recipe_runs_in_its_order_and_leaves_no_operator_of_the_trace(apply):
    graph = apply("bind-weights", "pack-qkv", "lower-float")
    assert {node.domain for node in graph.graph} == {"", "com.microsoft"}
    assert "dovetail" not in graph.graph.opset_imports


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        (["keep-blocks"], "must lower every operator of the trace, got Embedding, Linear, Weight in the end"),
        (["pack-qkv"], "pack-qkv must find what it needs, got: .* bind-weights stands before what packs or lowers"),
        (["pack-gate-up"], "pack-gate-up must find what it needs, got: .* bind-weights stands before"),
        (["bind-weights"], "must lower every operator of the trace, got Embedding, Linear in the end"),
        (["lower-float"], "lower-float must find what it needs, got: .* has no weight; bind-weights stands before"),
        (["lower-int8-blocks"], "lower-int8-blocks must find what it needs, got: .* bind-weights stands before"),
        (
            ["bind-weights", "lower-int8-rows", "score-rows"],
            "score-rows must find what it needs, got: .* stands before",
        ),
        (["bind-weights", "lower-float", "rank-candidate"], "a pass must be module:Class or a name"),
    ],
)
def test_a_recipe_in_a_wrong_order_is_refused_with_the_right_one(apply, passes, message):
    with pytest.raises(InputError, match=message):
        apply(*passes)


def test_equalizing_stands_between_binding_and_packing(tiny_model):
    import numpy as np

    from dovetail_ort_export.calibration import activation_maxima
    from dovetail_ort_export.equalization import EqualizedWeights
    from dovetail_ort_export.tracing import trace_target
    from dovetail_ort_export.weights import Weights

    model = tiny_model("llama")
    weights = Weights(model, max_context=512)
    equalized = EqualizedWeights(weights, model.config, activation_maxima(model, [np.arange(100)]), 0.7)
    recipe = Recipe("int8", tuple(map(Step, ("bind-weights", "pack-qkv", "equalize", "lower-int8-rows"))))
    with pytest.raises(InputError, match=r"equalize must find what it needs, got: no weight .* before what packs"):
        apply_recipe(trace_target(model), recipe, PassContext(weights=weights, equalized=equalized))


def test_a_drafters_recipe_is_not_for_a_target(apply):
    with pytest.raises(InputError, match="rank-candidates must stand in a drafter's recipe"):
        apply(*built_in_recipe("drafter").names)
