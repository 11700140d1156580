"""Passes by name, and what a pipeline of them makes of a graph and of errors."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import onnx_ir as ir
import pytest

from dovetail_ort_export import pipeline
from dovetail_ort_export.passes import BUILT_IN_PASSES
from dovetail_ort_export.passes.context import PassContext
from dovetail_ort_export.passes.lower_int8_blocks import LowerInt8Blocks
from dovetail_ort_export.passes.pack_products import PackQkv
from dovetail_ort_export.pipeline import (
    ENTRY_POINT_GROUP,
    apply_recipe,
    find_pass,
    make_pass,
    pass_types,
    run_pass,
    summary,
)
from dovetail_ort_export.recipe import Recipe, Step, built_in_recipe
from dovetail_ort_runtime.errors import InputError, SourceError

EXAMPLE = Path(__file__).parents[2] / "examples" / "graph_pass"

DISCOVER = """
import onnx_ir as ir
from dovetail_ort_export.pipeline import find_pass, make_pass, pass_types, summary
from dovetail_ort_export.recipe import Step

print(summary(pass_types()["soft-cap"]))
assert find_pass("soft-cap").__module__ == "soft_cap"
graph = ir.from_onnx_text('''
    <ir_version: 10, opset_import: ["": 18]>
    graph (float[1, 2, 3] x) => (float[1, 2, 3] logits) { logits = Identity(x) }
''')
make_pass(Step("soft-cap", {"cap": 2.0}))(graph)

import numpy, onnxruntime
session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
x = numpy.linspace(-9, 9, 6, dtype=numpy.float32).reshape(1, 2, 3)
numpy.testing.assert_allclose(session.run(["logits"], {"x": x})[0], 2 * numpy.tanh(x / 2), rtol=1e-5)
print([(output.name, output.shape) for output in session.get_outputs()])
"""


class NotDocumented(ir.passes.InPlacePass):
    def call(self, model):
        return ir.passes.PassResult(model, False)


def announce(monkeypatch, **values):
    points = [EntryPoint(name, value, ENTRY_POINT_GROUP) for name, value in values.items()]
    monkeypatch.setattr(pipeline, "entry_points", lambda group: points if group == ENTRY_POINT_GROUP else [])


def test_listing_passes_and_comparing_graphs_need_no_torch():
    code = "import sys; import dovetail_ort_export.pipeline, dovetail_ort_export.laboratory.diff; "
    code += "import dovetail_ort_export.laboratory.graphs; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_the_example_package_is_found_by_its_entry_point_and_does_what_it_says(tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(tmp_path), str(EXAMPLE)], check=True, capture_output=True)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{DISCOVER}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "logits -> cap * tanh(logits / cap): the order of the tokens stays, up to rounding.",
        "[('logits', [1, 2, 3])]",
    ]


def test_the_example_is_about_twenty_lines_of_code():
    lines = (EXAMPLE / "soft_cap.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 24


def test_all_passes_are_listed_the_built_in_ones_first(monkeypatch):
    announce(monkeypatch, theirs="dovetail_ort_export.passes.pack_products:PackQkv")
    assert list(pass_types()) == [*BUILT_IN_PASSES, "theirs"]


def test_every_built_in_pass_says_in_a_line_what_it_does():
    for name, kind in BUILT_IN_PASSES.items():
        assert 20 < len(summary(kind)) <= 118, name


def test_a_pass_without_documentation_says_so():
    assert summary(NotDocumented) == "not documented"


def test_a_pass_is_found_by_name_by_entry_point_and_by_import(monkeypatch):
    announce(monkeypatch, theirs="dovetail_ort_export.passes.pack_products:PackQkv")
    for name in ("pack-qkv", "theirs", "dovetail_ort_export.passes.pack_products:PackQkv"):
        assert find_pass(name) is PackQkv


def test_another_package_cannot_take_the_name_of_a_built_in_pass(monkeypatch):
    announce(monkeypatch, **{"pack-qkv": "dovetail_ort_export.passes.pack_products:PackGateUp"})
    assert find_pass("pack-qkv") is PackQkv


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pack-kqv", "a pass must be module:Class or a name that `dovetail-ort graph passes` lists, got 'pack-kqv'"),
        ("no.such.module:Pass", "cannot be imported: ModuleNotFoundError: No module named 'no'"),
        ("dovetail_ort_export.recipe:Nothing", "cannot be imported: AttributeError: "),
        ("dovetail_ort_export.recipe:", "cannot be imported: AttributeError: "),
        (":Pass", "cannot be imported: ValueError: "),
        ("dovetail_ort_export.recipe:Recipe", "must be a subclass of onnx_ir.passes.PassBase, got <class"),
        ("dovetail_ort_export.recipe:read_recipe", "must be a subclass of onnx_ir.passes.PassBase, got <function"),
    ],
)
def test_what_is_no_pass_is_refused(name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        find_pass(name)


def test_a_package_that_announces_what_cannot_be_imported_is_named(monkeypatch):
    announce(monkeypatch, broken="no.such.module:Pass")
    for use in (pass_types, lambda: find_pass("broken")):
        with pytest.raises(InputError, match="the pass broken cannot be imported: ModuleNotFoundError"):
            use()
    assert find_pass("pack-qkv") is PackQkv


def test_a_module_that_raises_when_it_is_imported_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "raises_on_import.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="cannot be imported: RuntimeError: no licence"):
        find_pass("raises_on_import:Pass")


def test_options_of_a_step_are_the_arguments_of_its_pass():
    assert isinstance(make_pass(Step("lower-int8-blocks", {"block_size": 64})), LowerInt8Blocks)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("pack-qkv", {"order": "kqv"}), "the pass pack-qkv does not have these options: "),
        (Step("lower-int8-blocks", {"blocksize": 64}), "the pass lower-int8-blocks does not have these options"),
        (Step("lower-int8-blocks", {"block_size": 48}), "block_size must be one of 16, 32, 64, 128, got 48"),
        (Step("lower-int8-blocks", {"mlp_bits": True}), "mlp_bits must be one of 4, 8, got True"),
    ],
)
def test_options_that_a_pass_does_not_have_are_refused(step, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make_pass(step)


def test_a_pass_that_must_know_the_model_is_not_for_a_finished_graph():
    with pytest.raises(InputError, match="the pass bind-weights needs the original model, and this graph is finished"):
        make_pass(Step("bind-weights"))


def test_a_drafters_ranking_has_no_place_in_a_targets_recipe():
    context = PassContext(weights={})
    with pytest.raises(InputError, match="rank-candidates is for a drafter's recipe; leave it out of a target's"):
        make_pass(Step("rank-candidates"), context)


@pytest.fixture(scope="module")
def apply(tiny_model):
    """`apply(*passes)`: a traced tiny Llama after the passes of a recipe."""
    from dovetail_ort_export.source.weights import Weights
    from dovetail_ort_export.tracing.target import trace_target

    model = tiny_model("llama")
    context = PassContext(weights=Weights(model, max_context=512))

    def run(*passes):
        return apply_recipe(trace_target(model), Recipe("int8", tuple(map(Step, passes))), context)

    return run


class Raises(ir.passes.InPlacePass):
    """Raises the given error at the given place."""

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
        ("requires", ir.passes.PreconditionError("no weight"), "the pass x does not fit this graph: no weight"),
        ("ensures", ir.passes.PostconditionError("one left"), "the pass x did not do what it promises: one left"),
        ("call", KeyError("gone"), "the pass x failed with KeyError: 'gone'"),
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
        (["keep-blocks"], "leaves operators of the trace in the graph: Embedding, Linear, Weight;"),
        (["pack-qkv"], "pack-qkv does not fit this graph: .* bind-weights must come before passes that pack or lower"),
        (["pack-gate-up"], "pack-gate-up does not fit this graph: .* bind-weights must come before"),
        (["bind-weights"], "leaves operators of the trace in the graph: Embedding, Linear;"),
        (["lower-float"], "lower-float does not fit this graph: .* has no weight; bind-weights must come before"),
        (["lower-int8-blocks"], "lower-int8-blocks does not fit this graph: .* bind-weights must come before"),
        (["lower-native"], "lower-native does not fit this graph: .* bind-weights must come before passes that pack"),
        (
            ["bind-weights", "pack-gate-up", "fuse-skip-norm", "lower-native"],
            "this graph: .* pack-qkv must come before lower-native",
        ),
        (
            ["bind-weights", "pack-qkv", "fuse-skip-norm", "lower-native"],
            "lower-native did not do what it promises: Sigmoid .* is left, .* pack-gate-up and fuse-skip-norm must",
        ),
        (
            ["bind-weights", "pack-qkv", "pack-gate-up", "lower-native"],
            "lower-native did not do what it promises: Add .* is left, and its bits depend on the processor",
        ),
        (["bind-weights", "lower-float", "rank-candidate"], "a pass must be module:Class or a name"),
    ],
)
def test_a_recipe_in_a_wrong_order_is_refused_with_the_right_one(apply, passes, message):
    with pytest.raises(InputError, match=message):
        apply(*passes)


def test_a_drafters_recipe_is_not_for_a_target(apply):
    with pytest.raises(InputError, match="rank-candidates is for a drafter's recipe"):
        apply(*built_in_recipe("drafter").names)
