"""The few likeliest tokens of each row, as ids of the target."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from scipy.special import log_softmax

from dovetail_ort_export.passes.context import PassContext
from dovetail_ort_export.passes.rank_candidates import RankCandidates

DRAFT_TOKEN_IDS = np.array([3, 8, 20, 21, 300])
LOGITS = np.array([[[0.5, 2.0, -1.0, 2.0, 1.0], [3.0, -2.0, 0.0, 0.25, 0.0]]], dtype=np.float32)


@pytest.fixture
def rank():
    return RankCandidates(PassContext(weights=None, draft_token_ids=DRAFT_TOKEN_IDS))


def graph(output="logits"):
    """A graph that gives what it is given, and the predicted states after it."""
    return ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 18]> graph (float[1, 2, 5] x) '
        f"=> (float[1, 2, 5] {output}, float[1, 2, 5] predicted_states) "
        f"{{ {output} = Identity(x) predicted_states = Neg(x) }}"
    )


def test_candidates_come_best_first_and_the_lower_token_of_two_equals(rank):
    model = graph()
    assert rank(model).modified
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    names = ["candidate_ids", "candidate_log_probabilities"]
    ids, scores = session.run(names, {"x": LOGITS, "num_candidates": np.array([3])})
    assert ids.tolist() == [[[8, 21, 300], [3, 21, 20]]]
    best = np.array([[[1, 3, 4], [0, 3, 2]]])
    expected = np.take_along_axis(log_softmax(LOGITS.astype(np.float64), axis=-1), best, axis=-1)
    # A float32 softmax over five logits: some roundings of 6e-8 each, of numbers below 6.
    np.testing.assert_allclose(scores, expected, atol=2e-6)


def test_the_ranking_takes_the_place_of_the_logits_alone(rank):
    model = graph()
    rank(model)
    assert {value.name for value in model.graph.outputs} == {
        "candidate_ids",
        "candidate_log_probabilities",
        "predicted_states",
    }
    assert [value.name for value in model.graph.inputs] == ["x", "num_candidates"]


def test_a_graph_without_logits_is_refused(rank):
    with pytest.raises(ir.passes.PreconditionError, match="no output called logits"):
        rank(graph(output="scores"))


def test_a_graph_is_ranked_once(rank):
    model = graph()
    rank(model)
    with pytest.raises(ir.passes.PreconditionError, match="no output called logits"):
        rank(model)
