"""Traced tiny models, and small graphs, for the passes."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import pytest

from dovetail_ort_export.passes.bind_weights import BindWeights
from dovetail_ort_export.passes.context import PassContext


@pytest.fixture(scope="module")
def skeleton(tiny_model):
    """`skeleton(family, ...)`: a traced model and the weights it names."""
    from dovetail_ort_export.source.weights import Weights
    from dovetail_ort_export.tracing.target import trace_target

    def make(family, **settings):
        model = tiny_model(family, **settings)
        return trace_target(model), Weights(model, max_context=512)

    return make


@pytest.fixture(scope="module")
def bound(skeleton):
    """`bound(family, ...)`: the same with the weights in place."""

    def make(family, **settings):
        graph, weights = skeleton(family, **settings)
        BindWeights(PassContext(weights=weights))(graph)
        return graph

    return make


@pytest.fixture(scope="session")
def operators():
    """`operators(model)`: number of nodes by type."""
    return lambda model: Counter(node.op_type for node in model.graph)


@pytest.fixture(scope="session")
def assert_leaves_alone():
    """`assert_leaves_alone(graph_pass, model)`: the pass changes nothing, and says so."""

    def text(model):
        """Everything but the numbers."""
        return [str(node) for node in model.graph], sorted(model.graph.initializers)

    def check(graph_pass, model):
        before = text(model)
        assert not graph_pass(model).modified
        assert text(model) == before

    return check


@pytest.fixture(scope="session")
def small_graph():
    """`small_graph(body)`: a graph of inputs x and r, weights w and w2 (4, 4) and a norm's weight n (4,)."""

    def make(body, outputs="y"):
        ones = ",".join("1" * 4)
        square = ",".join("1" * 16)
        header = '<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1, "dovetail": 1, "other": 1]>'
        results = ", ".join(f"float[1, 2, 4] {name}" for name in outputs.split())
        weights = f"float[4] n = {{{ones}}}, float[4, 4] w = {{{square}}}, float[4, 4] w2 = {{{square}}}"
        source = f"{header} graph (float[1, 2, 4] x, float[1, 2, 4] r) => ({results}) <{weights}> {{ {body} }}"
        return ir.from_onnx_text(source)

    return make
