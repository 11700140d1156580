"""What a pass promises: it leaves no node that it is for, and touches no other."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from dovetail_ort_export.passes.fuse_skip_norm import FuseSkipNorm
from dovetail_ort_export.passes.lower_float import LowerFloat, LowerHalf
from dovetail_ort_export.passes.lower_int8_blocks import LowerInt8Blocks
from dovetail_ort_export.passes.pack_products import PackGateUp, PackQkv
from dovetail_ort_export.passes.score_rows import ScoreRows


@pytest.mark.parametrize(
    "graph_pass",
    [PackQkv(), PackGateUp(), LowerFloat(), LowerHalf(), LowerInt8Blocks()],
    ids=lambda graph_pass: type(graph_pass).__name__,
)
def test_a_node_that_is_left_as_it_was_breaks_the_promise(bound, monkeypatch, graph_pass):
    monkeypatch.setattr(type(graph_pass), "_rewrite", lambda *_: None)
    with pytest.raises(ir.passes.PostconditionError, match="is left as it was"):
        graph_pass(bound("llama"))


@pytest.mark.parametrize(
    ("graph_pass", "message"),
    [
        (FuseSkipNorm(), "still reads the addition"),
        (ScoreRows(), "more than the choice of rows reads hidden_states"),
        (LowerHalf(), "is left as it was"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_pass_that_does_nothing_breaks_its_promise(bound, monkeypatch, graph_pass, message):
    monkeypatch.setattr(type(graph_pass), "call", lambda _, model: ir.passes.PassResult(model, False))
    with pytest.raises(ir.passes.PostconditionError, match=message):
        graph_pass(bound("llama"))


def test_operators_of_that_name_in_other_domains_are_left_alone(assert_leaves_alone, small_graph):
    body = "g = other.Linear(x, w)  u = other.Linear(x, w2)  a = Sigmoid(g)  s = Mul(g, a)  y = Mul(s, u)"
    for graph_pass in (LowerFloat(), LowerInt8Blocks()):
        assert_leaves_alone(graph_pass, small_graph(body))
