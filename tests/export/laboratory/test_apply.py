"""New bundles from old ones: what a pass of somebody else may do, and what is said of it."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

import dovetail_ort
from dovetail_ort.cli.main import main
from dovetail_ort_runtime.bundle.bundle import Bundle

PASSES = """
    import numpy as np
    import onnx_ir as ir


    class _Pass(ir.passes.InPlacePass):
        def call(self, model):
            return ir.passes.PassResult(model, self.change(model.graph) is not False)


    def insert(graph, old, op_type, constant):
        name = f"{old.name}_before_{op_type}"
        value = ir.val(f"{name}_constant", const_value=ir.tensor(np.float32([constant]), name=f"{name}_constant"))
        graph.register_initializer(value)
        new = ir.node(op_type, [old, value])
        new.outputs[0].shape, new.outputs[0].type = old.shape, old.type
        new.outputs[0].name, old.name = old.name, name
        graph.append(new)
        graph.outputs[[output is old for output in graph.outputs].index(True)] = new.outputs[0]


    class Shift(_Pass):
        def change(self, graph):  # softmax does not see it
            insert(graph, graph.outputs[0], "Add", 0.25)


    class Halve(_Pass):
        def change(self, graph):
            insert(graph, graph.outputs[0], "Mul", 0.5)


    class AddFirstRow(_Pass):
        def change(self, graph):  # little enough for parity, and every row looks at its neighbours
            logits = graph.outputs[0]
            mean = ir.node("ReduceMean", [logits], {"noop_with_empty_axes": 0, "keepdims": 1})
            tiny = ir.val("tiny", const_value=ir.tensor(np.float32([1e-4]), name="tiny"))
            graph.register_initializer(tiny)
            scaled = ir.node("Mul", [mean.outputs[0], tiny])
            graph.extend([mean, scaled])
            total = ir.node("Add", [logits, scaled.outputs[0]])
            total.outputs[0].shape, total.outputs[0].type = logits.shape, logits.type
            graph.append(total)
            logits.name, total.outputs[0].name = "logits_before", "logits"
            graph.outputs[0] = total.outputs[0]


    class Nothing(_Pass):
        def change(self, graph):
            return False


    class Cycle(_Pass):
        def change(self, graph):
            last = graph.outputs[0].producer()
            last.inputs[0].producer().replace_input_with(0, last.outputs[0])


    class WithoutLogits(_Pass):
        def change(self, graph):
            graph.outputs.pop(0)


    class Unheard(_Pass):
        def change(self, graph):
            graph.outputs[0].producer().domain = "example.unheard"


    class Fails(_Pass):
        def change(self, graph):
            raise KeyError("no such norm")


    class NoPass:
        pass
"""


@pytest.fixture(autouse=True)
def foreign_passes(tmp_path, monkeypatch):
    """A module `foreign_passes` of somebody else."""
    (tmp_path / "foreign_passes.py").write_text(textwrap.dedent(PASSES))
    (tmp_path / "broken_module.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("foreign_passes", None)


def apply(bundle: Path, name: str, out: Path, *options: str) -> int:
    return main(["graph", "apply", str(bundle), "--pass", name, str(out), *options])


def test_a_pass_that_keeps_the_outputs_makes_an_exact_bundle_that_generates_the_same(tiny_bundle, tmp_path, capsys):
    out = tmp_path / "out"
    assert apply(tiny_bundle, "foreign_passes:Shift", out, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["keeps_parity"]
    assert record["measurements"]["agreement"]["top1"] == 1.0
    assert record["measurements"]["agreement"]["mean_kl"] < 1e-6
    target = Bundle(out).manifest.target
    assert target.exact
    assert target.passes[-1] == "foreign_passes:Shift"
    before, after = (dovetail_ort.load(path).generate("The tails hold") for path in (tiny_bundle, out))
    assert before.token_ids == after.token_ids


def test_a_pass_that_breaks_parity_is_reported_and_its_bundle_is_not_called_exact(tiny_bundle, tmp_path, capsys):
    out = tmp_path / "out"
    assert apply(tiny_bundle, "foreign_passes:Halve", out) == 0
    printed = capsys.readouterr()
    assert "gives other results than" in printed.err
    assert "NO" in printed.out
    manifest = Bundle(out).manifest
    assert manifest.measurements.row_invariance.identical
    assert not manifest.target.exact


def test_a_pass_that_lets_rows_see_each_other_is_reported_and_its_bundle_is_not_exact(tiny_bundle, tmp_path, capsys):
    out = tmp_path / "out"
    assert apply(tiny_bundle, "foreign_passes:AddFirstRow", out) == 0
    assert "NOT exact: results depend on the other rows of a forward" in capsys.readouterr().err
    manifest = Bundle(out).manifest
    assert not manifest.measurements.row_invariance.identical
    assert manifest.measurements.agreement.mean_kl < 0.02
    assert not manifest.target.exact


def test_passes_go_over_the_drafter_too(tiny_drafting_bundle, tmp_path, capsys):
    out = tmp_path / "out"
    assert apply(tiny_drafting_bundle, "foreign_passes:Shift", out, "--graph", "drafter") == 0
    assert "100.0% same first candidate" in capsys.readouterr().out
    manifest = Bundle(out).manifest
    assert manifest.target == Bundle(tiny_drafting_bundle).manifest.target
    assert manifest.drafter is not None
    assert manifest.drafter.passes[-1] == "foreign_passes:Shift"


def test_a_drafter_keeps_its_taps(tiny_tapped_bundle, tmp_path):
    out = tmp_path / "out"
    assert apply(tiny_tapped_bundle, "foreign_passes:Shift", out, "--graph", "drafter") == 0
    assert Bundle(out, "all").manifest.drafter.taps == Bundle(tiny_tapped_bundle).manifest.drafter.taps


def test_a_target_with_taps_is_left_alone(tiny_tapped_bundle, tmp_path, refused):
    found = refused("graph", "apply", tiny_tapped_bundle, "--pass", "foreign_passes:Shift", tmp_path / "out")
    assert "take it out first with: dovetail-ort attach BUNDLE --none" in found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("foreign_passes:Nothing", "must find something to change, got a graph without its pattern"),
        ("foreign_passes:Cycle", "leave a graph with a cycle"),
        ("foreign_passes:WithoutLogits", "model_native.onnx has logits None, but the manifest says 384;"),
        ("foreign_passes:Unheard", "cannot load model_native.onnx"),
        ("foreign_passes:Fails", "the pass foreign_passes:Fails failed with KeyError: 'no such norm'"),
        ("foreign_passes:NoPass", "must be a subclass of onnx_ir.passes.PassBase"),
        ("foreign_passes:Missing", "cannot be imported: AttributeError"),
        ("broken_module:Any", "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"),
        ("paint-it-black", "a pass must be module:Class or a name that `dovetail-ort graph passes` lists"),
        ("pack-qkv", "the pass pack-qkv must find something to change"),
        ("bind-weights", "the pass bind-weights needs the original model, and this graph is finished"),
    ],
)
def test_what_cannot_be_applied_is_one_line_and_writes_nothing(name, message, tiny_bundle, tmp_path, capsys):
    out = tmp_path / "out"
    assert apply(tiny_bundle, name, out) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))


def test_weights_that_lie_elsewhere_are_refused(tiny_bundle, tmp_path, capsys):
    import onnx

    from dovetail_ort_export.writing.bundle_output import file_entries
    from dovetail_ort_runtime.bundle.bundle import sha256

    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))
    graph = copy / "model_native.onnx"
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../elsewhere"
    onnx.save(model, graph)
    manifest = json.loads((copy / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == graph.name:
            entry.update(num_bytes=graph.stat().st_size, sha256=sha256(graph))
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert file_entries(copy)
    assert apply(copy, "foreign_passes:Shift", tmp_path / "out") == 2
    assert "../elsewhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_stands_at_out_stays_unless_forced(tiny_bundle, tmp_path, capsys):
    out = tmp_path / "out"
    assert apply(tiny_bundle, "foreign_passes:Shift", out) == 0
    assert apply(tiny_bundle, "foreign_passes:Halve", out) == 2
    assert "pass --force to replace it" in capsys.readouterr().err
    assert Bundle(out).manifest.target.passes[-1] == "foreign_passes:Shift"
    assert apply(out, "foreign_passes:Halve", out, "--force") == 0
    assert Bundle(out).manifest.target.passes[-2:] == ("foreign_passes:Shift", "foreign_passes:Halve")
