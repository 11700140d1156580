"""Passes by name: built in, announced by a package, or imported."""

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import onnx_ir as ir
import pytest

from dovetail_ort_export import pass_catalogue
from dovetail_ort_export.pass_catalogue import (
    BUILT_IN_PASSES,
    ENTRY_POINT_GROUP,
    find_pass,
    make_pass,
    pass_types,
    summary,
)
from dovetail_ort_export.pass_context import PassContext
from dovetail_ort_export.passes.lower_int8_blocks import LowerInt8Blocks
from dovetail_ort_export.passes.pack_qkv import PackQkv
from dovetail_ort_export.recipe import Step
from dovetail_ort_runtime.errors import InputError

EXAMPLE = Path(__file__).parents[2] / "examples" / "graph_pass"

DISCOVER = """
import onnx_ir as ir
from dovetail_ort_export.pass_catalogue import find_pass, make_pass, pass_types, summary
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
    monkeypatch.setattr(pass_catalogue, "entry_points", lambda group: points if group == ENTRY_POINT_GROUP else [])


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
    announce(monkeypatch, theirs="dovetail_ort_export.passes.pack_qkv:PackQkv")
    assert list(pass_types()) == [*BUILT_IN_PASSES, "theirs"]


def test_every_built_in_pass_says_in_a_line_what_it_does():
    for name, kind in BUILT_IN_PASSES.items():
        assert 20 < len(summary(kind)) <= 118, name


def test_a_pass_without_documentation_says_so():
    assert summary(NotDocumented) == "not documented"


def test_a_pass_is_found_by_name_by_entry_point_and_by_import(monkeypatch):
    announce(monkeypatch, theirs="dovetail_ort_export.passes.pack_qkv:PackQkv")
    for name in ("pack-qkv", "theirs", "dovetail_ort_export.passes.pack_qkv:PackQkv"):
        assert find_pass(name) is PackQkv


def test_another_package_cannot_take_the_name_of_a_built_in_pass(monkeypatch):
    announce(monkeypatch, **{"pack-qkv": "dovetail_ort_export.passes.pack_gate_up:PackGateUp"})
    assert find_pass("pack-qkv") is PackQkv


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pack-kqv", "a pass must be module:Class or a name that `dovetail-ort graph passes` lists, got 'pack-kqv'"),
        ("no.such.module:Pass", "must be importable, got ModuleNotFoundError: No module named 'no'"),
        ("dovetail_ort_export.recipe:Nothing", "must be importable, got AttributeError: "),
        ("dovetail_ort_export.recipe:", "must be importable, got AttributeError: "),
        (":Pass", "must be importable, got ValueError: "),
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
        with pytest.raises(InputError, match="the pass broken must be importable, got ModuleNotFoundError"):
            use()
    assert find_pass("pack-qkv") is PackQkv


def test_a_module_that_raises_when_it_is_imported_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "raises_on_import.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="must be importable, got RuntimeError: no licence"):
        find_pass("raises_on_import:Pass")


def test_options_of_a_step_are_the_arguments_of_its_pass():
    assert isinstance(make_pass(Step("lower-int8-blocks", {"block_size": 64})), LowerInt8Blocks)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("pack-qkv", {"order": "kqv"}), "the pass pack-qkv must be given the options it has, got: "),
        (Step("lower-int8-blocks", {"blocksize": 64}), "the pass lower-int8-blocks must be given the options it has"),
        (Step("lower-int8-blocks", {"block_size": 48}), "block_size must be one of 16, 32, 64, 128, got 48"),
        (Step("lower-int8-blocks", {"mlp_bits": True}), "mlp_bits must be one of 4, 8, got True"),
    ],
)
def test_options_that_a_pass_does_not_have_are_refused(step, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make_pass(step)


def test_a_pass_that_must_know_the_model_is_not_for_a_finished_graph():
    with pytest.raises(InputError, match="the pass bind-weights must know the original model, got a finished graph"):
        make_pass(Step("bind-weights"))


def test_a_drafters_ranking_has_no_place_in_a_targets_recipe():
    context = PassContext(weights={})
    with pytest.raises(InputError, match="rank-candidates must stand in a drafter's recipe, got a target's"):
        make_pass(Step("rank-candidates"), context)
