"""A target that is cut between two blocks."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from dovetail_ort_export.passes.context import PassContext
from dovetail_ort_export.passes.fuse_skip_norm import FuseSkipNorm
from dovetail_ort_export.passes.keep_blocks import KeepBlocks

CUT = 2


@pytest.fixture(scope="module")
def whole(bound):
    return bound("llama", num_hidden_layers=3)


@pytest.fixture(scope="module")
def parts(whole):
    """The blocks before the cut, and those after it."""
    first = KeepBlocks(PassContext(weights=None, end_block=CUT))(whole.clone()).model
    rest = KeepBlocks(PassContext(weights=None, first_block=CUT))(whole.clone()).model
    return first, rest


def names(values):
    return [value.name for value in values]


def test_each_part_has_the_caches_of_its_own_blocks_and_the_states_between_them(whole, parts):
    first, rest = parts
    present = [f"present.{block}.{part}" for block in range(3) for part in ("key", "value")]
    past = [name.replace("present", "past_key_values") for name in present]
    assert names(first.graph.outputs) == ["block_states", *present[: 2 * CUT]]
    assert names(rest.graph.outputs) == ["logits", "hidden_states", *present[2 * CUT :]]
    assert [name for name in names(first.graph.inputs) if name.startswith("past")] == past[: 2 * CUT]
    assert [name for name in names(rest.graph.inputs) if name.startswith("past")] == past[2 * CUT :]
    assert names(rest.graph.inputs)[-1] == "block_states"
    hidden_states = next(value for value in whole.graph.outputs if value.name == "hidden_states")
    for value in (first.graph.outputs[0], rest.graph.inputs[-1]):
        assert (value.dtype, value.shape) == (ir.DataType.FLOAT, hidden_states.shape)


def test_every_operator_stands_in_one_part(whole, parts, operators):
    first, rest = parts
    assert operators(first) + operators(rest) == operators(whole)
    assert (operators(first)["GroupQueryAttention"], operators(rest)["GroupQueryAttention"]) == (CUT, 1)


def test_the_weights_keep_their_order(whole, parts):
    for part in parts:
        kept = list(part.graph.initializers)
        assert kept == [name for name in whole.graph.initializers if name in kept]


def test_a_target_without_a_cut_is_left_alone(whole, assert_leaves_alone):
    assert_leaves_alone(KeepBlocks(PassContext(weights=None)), whole)


def test_a_cut_through_an_addition_that_is_fused_is_refused(whole):
    graph = whole.clone()
    FuseSkipNorm()(graph)
    with pytest.raises(ir.passes.PreconditionError, match="keep-blocks must come before fuse-skip-norm"):
        KeepBlocks(PassContext(weights=None, end_block=CUT))(graph)
