"""Two graphs beside each other."""

from __future__ import annotations

import json
from collections import Counter

import onnx
import pytest

from dovetail_ort.cli.main import main
from dovetail_ort_runtime.bundle.bundle import Bundle


def graph_of(bundle):
    return bundle / Bundle(bundle).manifest.target.graph


def difference(first, second, capsys):
    assert main(["graph", "diff", str(first), str(second), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_graph_does_not_differ_from_itself(tiny_bundle, capsys):
    found = difference(tiny_bundle, graph_of(tiny_bundle), capsys)
    assert found["first"] == found["second"]
    assert not any(found[kind] for kind in ("removed", "added", "changed", "inputs", "outputs"))


def test_nodes_weights_and_bytes_are_those_that_onnx_counts(tiny_bundle, tiny_bundle_fp32, capsys):
    found = difference(tiny_bundle, tiny_bundle_fp32, capsys)
    for side, bundle in (("first", tiny_bundle), ("second", tiny_bundle_fp32)):
        model = onnx.load(graph_of(bundle))
        types = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.node)
        assert found[side]["num_nodes"] == types
        assert found[side]["num_initializers"] == len(model.graph.initializer)
        sizes = (onnx.numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
        assert found[side]["initializer_bytes"] == sum(sizes)
    assert "dovetail.native::NormProduct" in found["first"]["num_nodes"]
    assert "dovetail.native::NormProduct" not in found["second"]["num_nodes"]


def test_a_changed_weight_is_named(tiny_bundle, tmp_path, capsys):
    model = onnx.load(graph_of(tiny_bundle))
    name = "model.norm.weight"
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, name))
    changed = tmp_path / "changed.onnx"
    onnx.save(model, changed)
    assert difference(tiny_bundle, changed, capsys)["changed"] == {name: 64 * 4}
    assert main(["graph", "diff", str(tiny_bundle), str(changed)]) == 0
    assert f"changed {name}, 256 bytes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"), [("no-such", "a bundle must be a directory"), ("text.onnx", "is not an ONNX graph")]
)
def test_what_is_no_graph_is_one_line(name, message, tiny_bundle, tmp_path, capsys):
    (tmp_path / "text.onnx").write_text("no graph")
    assert main(["graph", "diff", str(tiny_bundle), str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_bundle_without_a_drafter_has_none_to_compare(tiny_bundle, capsys):
    assert main(["graph", "diff", str(tiny_bundle), str(tiny_bundle), "--graph", "drafter"]) == 2
    assert "has no drafter" in capsys.readouterr().err
