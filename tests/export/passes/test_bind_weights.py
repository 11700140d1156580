"""Names of weights become initializers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dovetail_ort_export.passes.bind_weights import BindWeights
from dovetail_ort_export.passes.context import PassContext


def test_every_named_weight_is_bound_to_its_numbers(skeleton, operators):
    graph, weights = skeleton("qwen2", tie_word_embeddings=False)
    names = {node.attributes["name"].as_string() for node in graph.graph if node.op_type == "Weight"}
    assert BindWeights(PassContext(weights=weights))(graph).modified
    assert operators(graph)["Weight"] == 0
    assert set(graph.graph.initializers) >= names
    for name in names:
        np.testing.assert_array_equal(graph.graph.initializers[name].const_value.numpy(), weights[name])


def test_two_names_of_a_tied_weight_become_one_initializer(bound):
    graph = bound("llama")
    assert "model.embed_tokens.weight" in graph.graph.initializers
    assert "lm_head.weight" not in graph.graph.initializers


def test_a_graph_without_names_is_left_alone_by_binding(skeleton, assert_leaves_alone):
    graph, weights = skeleton("llama")
    BindWeights(PassContext(weights=weights))(graph)
    assert_leaves_alone(BindWeights(PassContext(weights=weights)), graph)


class Forgetful(BindWeights):
    """Leaves every node as it was."""

    def _rewrite(self, model, node):
        pass


def test_a_name_that_is_left_unbound_breaks_the_promise(skeleton):
    graph, weights = skeleton("llama")
    with pytest.raises(ir.passes.PostconditionError, match="is left as it was"):
        Forgetful(PassContext(weights=weights))(graph)
