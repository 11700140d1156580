"""What rows see, in the words of a portable and of a native graph."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_runtime.decoding.verification import verification_rows
from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal
from dovetail_ort_runtime.engine.forward_inputs import (
    NO_ANCESTOR,
    ChainInputs,
    NativeInputs,
    PortableInputs,
    ancestor_slots,
    padded_ancestors,
    tree_bias,
)
from dovetail_ort_runtime.engine.host_buffers import HostBuffers


@st.composite
def parents(draw):
    """Of the rows of a tree, each an earlier row or -1."""
    number = draw(st.integers(1, 20))
    return np.array([draw(st.integers(-1, row - 1)) for row in range(number)], dtype=np.int64)


def visible(parents, row):
    """The rows that a row sees besides the kept tokens, by the definition."""
    return set() if row < 0 else {row} | visible(parents, int(parents[row]))


def test_a_proposal_becomes_rows_with_their_parents_and_positions():
    tree = Proposal(token_ids=np.array([4, 5, 6]), parents=np.array([ROOT, 0, ROOT]))
    rows = verification_rows(3, tree, 10)
    assert rows.token_ids.tolist() == [3, 4, 5, 6]
    assert rows.position_ids.tolist() == [10, 11, 12, 11]
    assert rows.parents.tolist() == [-1, 0, 1, 0]
    assert verification_rows(3, Proposal.chain([4, 5]), 10).parents is None


def test_ancestors_are_slots_from_the_oldest_on():
    found = ancestor_slots(np.array([-1, 0, 1, 0]), 10)
    assert found.tolist() == [[-1, -1], [10, -1], [10, 11], [10, -1]]


@pytest.mark.parametrize(("deepest", "width"), [(0, 1), (1, 1), (2, 2), (3, 4), (5, 8), (9, 16)])
def test_few_widths_of_ancestors_are_ever_bound(deepest, width):
    found = padded_ancestors([list(range(deepest)), []])
    assert found.shape == (2, width)
    assert (found[:, deepest:] == NO_ANCESTOR).all()


@given(parents(), st.integers(0, 9))
def test_a_bias_shows_each_row_the_kept_slots_its_ancestors_and_itself(parents, num_kept):
    bias = tree_bias(num_kept, num_kept, ancestor_slots(parents, num_kept))[0, 0]
    for row in range(len(parents)):
        seen = {*range(num_kept), *(num_kept + other for other in visible(parents, row))}
        assert set(np.flatnonzero(bias[row] == 0).tolist()) == seen
        assert (np.delete(bias[row], list(seen)) == -np.inf).all()


def test_slots_between_the_kept_ones_and_the_pass_are_seen_by_descendants_alone():
    """A drafter's second level: slots 5 and 6 hold the first one, 7 and 8 are written."""
    bias = tree_bias(7, 5, np.array([[5], [6]]))[0, 0]
    assert [np.flatnonzero(row == 0).tolist() for row in bias] == [[0, 1, 2, 3, 4, 5, 7], [0, 1, 2, 3, 4, 6, 8]]


def test_a_portable_chain_has_a_bias_of_zeros_that_is_never_copied():
    no_bias = np.zeros(100, dtype=np.float32)
    inputs = PortableInputs(3, no_bias, HostBuffers("cpu"))
    for first in (0, 7):
        inputs.fill(first, first, None)
        assert inputs.fixed["seqlens_k"].tolist() == [first + 2]
        assert inputs.fixed["total_sequence_length"] == first + 3
        bias = inputs.changing["attention_bias"]
        assert bias.shape == (1, 1, 3, first + 3)
        assert np.shares_memory(bias, no_bias)


def test_a_graph_for_chains_reads_lengths_alone():
    inputs = ChainInputs(3, HostBuffers("cpu"))
    inputs.fill(7, 7, None)
    assert {name: array.tolist() for name, array in inputs.fixed.items()} == {
        "seqlens_k": [9],
        "total_sequence_length": 10,
    }
    assert not inputs.changing


def test_native_inputs_are_written_in_place():
    inputs = NativeInputs(2, 4)
    arrays = dict(inputs.fixed)
    inputs.fill(7, 5, np.array([[5, -1, -1, -1], [6, -1, -1, -1]]))
    assert arrays["lengths"].tolist() == [5]
    assert arrays["slots"].tolist() == [7, 8]
    assert arrays["sequence_ids"].tolist() == [0, 0]
    assert arrays["ancestors"].tolist() == [[5, -1, -1, -1], [6, -1, -1, -1]]
    assert not inputs.changing
    assert all(inputs.fixed[name] is array for name, array in arrays.items())


def test_a_native_chain_has_no_ancestors():
    inputs = NativeInputs(3, 0)
    inputs.fill(7, 7, None)
    assert inputs.fixed["ancestors"].shape == (3, 0)
    assert inputs.fixed["slots"].tolist() == [7, 8, 9]
