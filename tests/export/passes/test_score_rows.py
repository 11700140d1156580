"""The head reads chosen rows only."""

from __future__ import annotations

from dovetail_ort_export.passes.context import PassContext
from dovetail_ort_export.passes.keep_blocks import KeepBlocks
from dovetail_ort_export.passes.score_rows import ScoreRows


def inputs(model):
    return [value.name for value in model.graph.inputs]


def test_the_head_reads_the_rows_that_are_asked_for_and_the_hidden_states_keep_all(bound):
    graph = bound("llama")
    assert ScoreRows()(graph).modified
    assert inputs(graph)[:7] == [*inputs(bound("llama"))[:5], "scored_rows", "past_key_values.0.key"]
    logits, states = graph.graph.outputs[:2]
    gather = logits.producer().inputs[0].producer()
    assert gather.op_type == "Gather"
    assert gather.inputs[0] is states
    assert gather.inputs[1].name == "scored_rows"
    assert [str(axis) for axis in logits.shape] == ["batch_size", "num_scored_rows", "384"]
    assert [str(axis) for axis in states.shape] == ["batch_size", "sequence_length", "64"]


def test_rows_are_chosen_once(bound, assert_leaves_alone):
    graph = bound("llama")
    ScoreRows()(graph)
    assert_leaves_alone(ScoreRows(), graph)


def test_a_part_of_a_target_without_the_head_has_no_rows_to_choose(bound, assert_leaves_alone):
    graph = KeepBlocks(PassContext(weights=None, end_block=1))(bound("llama")).model
    assert_leaves_alone(ScoreRows(), graph)


def test_what_has_no_head_has_no_rows_to_choose(assert_leaves_alone, small_graph):
    assert_leaves_alone(ScoreRows(), small_graph("y = Relu(x)"))
