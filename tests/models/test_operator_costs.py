"""A graph with repeated nodes is the same graph, and only slower."""

import json
from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import operator_costs
import pytest

from dovetail_ort_runtime.bundle import Bundle

EVERYTHING = frozenset({"MatMulNBits", "GroupQueryAttention", "Mul", "Split", "SkipSimplifiedLayerNormalization"})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few rounds, and a bandwidth that is not measured."""
    monkeypatch.setattr(operator_costs, "ROUNDS", 3)
    monkeypatch.setattr(operator_costs, "measured_read_bandwidth", lambda threads: 1e9)


def first_logits(graph, entry):
    """What a pass over two rows says behind the same random cache."""
    seen = {}

    class Session(onnxruntime.InferenceSession):
        def run_with_iobinding(self, binding, options=None):
            super().run_with_iobinding(binding, options)
            names = [value.name for value in self.get_outputs()]
            seen["logits"] = binding.get_outputs()[names.index("logits")].numpy()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(onnxruntime, "InferenceSession", Session)
        operator_costs.open_passes(graph, entry)(2)
    return seen["logits"]


def test_repeated_nodes_run_and_change_nothing(tiny_bundle, tmp_path):
    bundle = Bundle(tiny_bundle)
    entry = bundle.manifest.target
    graph = operator_costs.optimised(bundle.path(entry.graph), tmp_path)
    twice = operator_costs.repeat(graph, EVERYTHING, tmp_path / "twice.onnx")
    counts, doubled = (Counter(node.op_type for node in ir.load(path).graph) for path in (graph, twice))
    assert counts.keys() >= EVERYTHING
    assert doubled == {name: number * (1 + (name in EVERYTHING)) for name, number in counts.items()}
    np.testing.assert_array_equal(first_logits(twice, entry), first_logits(graph, entry))


def test_parts_are_shares_of_a_pass_and_products_what_is_left(tiny_bundle, capsys):
    operator_costs.main(str(tiny_bundle))
    (measured,) = json.loads(capsys.readouterr().out)["graphs"].values()
    assert set(measured) == {"1", "2", "6"}
    entry = Bundle(tiny_bundle).manifest.target
    keys_and_values = entry.num_layers * 2 * entry.num_kv_heads * entry.head_size * 4
    for rows, found in measured.items():
        parts, products = found["parts"], found["products"]
        taken = sum(parts[name]["share"][1] for name in ("neither product nor attention", "GroupQueryAttention"))
        assert products["share"] == pytest.approx(1 - taken, abs=1e-3)
        assert products["share_again"] == parts["MatMulNBits"]["share"][1]
        assert parts["GroupQueryAttention"]["bytes_read"] == keys_and_values * (operator_costs.NUM_PAST + int(rows))
        rate = parts["MatMulNBits"]["bytes_read"] / (products["share"] * found["pass_ms"]) * 1e3
        assert products["bytes_per_second"] == pytest.approx(rate, rel=0.01)
