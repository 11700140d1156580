"""Chains and trees of draft tokens: order, depths, first path, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal
from dovetail_ort_runtime.errors import InputError


@st.composite
def trees(draw):
    parents = [draw(st.integers(ROOT, index - 1)) for index in range(draw(st.integers(0, 12)))]
    return Proposal(token_ids=np.arange(len(parents)), parents=np.array(parents, dtype=np.int64))


def example_tree() -> Proposal:
    """The tree of the class's docstring: cat (sat), dog."""
    return Proposal(token_ids=np.array([10, 11, 12]), parents=np.array([ROOT, 0, ROOT]))


def test_the_children_of_the_example_stand_in_order():
    tree = example_tree()
    assert (tree.children(ROOT), tree.children(0), tree.children(1)) == ([0, 2], [1], [])


def test_the_depths_of_the_example_count_from_the_root():
    assert example_tree().depths().tolist() == [1, 2, 1]


def test_a_chain_follows_itself():
    chain = Proposal.chain([7, 8, 9])
    assert (chain.token_ids.tolist(), chain.parents.tolist(), chain.depths().tolist()) == (
        [7, 8, 9],
        [-1, 0, 1],
        [1, 2, 3],
    )
    assert chain.token_ids.dtype == chain.parents.dtype == np.int64


def test_only_a_chain_is_a_chain():
    assert Proposal.chain([7, 8, 9]).is_chain
    assert not example_tree().is_chain


def test_an_empty_proposal_is_a_chain_without_children():
    empty = Proposal.chain([])
    assert (len(empty), empty.is_chain, empty.children(ROOT), empty.depths().tolist()) == (0, True, [], [])


@given(trees())
def test_every_draft_token_is_the_child_of_one_node(tree):
    children = [child for node in range(ROOT, len(tree)) for child in tree.children(node)]
    assert sorted(children) == list(range(len(tree)))


@given(trees())
def test_a_child_lies_one_deeper_than_its_parent(tree):
    depths = tree.depths()
    for index, parent in enumerate(tree.parents):
        assert depths[index] == (1 if parent == ROOT else depths[parent] + 1)


@pytest.mark.parametrize("parents", [[0, 0], [ROOT, 1], [1, ROOT], [-2, 0]])
def test_a_parent_must_come_before_its_child(parents):
    with pytest.raises(InputError, match="parents must be -1 or the index of an earlier draft token"):
        Proposal(token_ids=np.array([1, 2]), parents=np.array(parents))


def test_every_draft_token_needs_a_parent():
    with pytest.raises(InputError, match="got 1 for 2"):
        Proposal(token_ids=np.array([1, 2]), parents=np.array([ROOT]))


def test_every_draft_token_needs_a_row_of_probabilities():
    with pytest.raises(InputError, match="got 1 for 2"):
        Proposal.chain([1, 2], np.ones((1, 6), np.float32))


def test_the_first_path_ends_where_a_token_does_not_follow_the_one_before():
    tree = example_tree()
    assert tree.first_path().token_ids.tolist() == tree.token_ids[:2].tolist()
    chain = Proposal.chain([4, 5, 6])
    assert chain.first_path() is chain
    assert len(Proposal.chain([]).first_path()) == 0


@given(trees())
def test_the_first_path_is_a_chain_that_the_tree_begins_with(tree):
    path = tree.first_path()
    assert path.is_chain
    assert path.token_ids.tolist() == tree.token_ids[: len(path)].tolist()
    assert len(path) == len(tree) or tree.parents[len(path)] != len(path) - 1


def test_the_likeliest_tokens_keep_their_parents_and_their_order():
    tree = Proposal(
        token_ids=np.array([10, 11, 12, 13, 14]),
        parents=np.array([-1, 0, -1, 2, 0]),
        confidences=[0.6, 0.2, 0.3, 0.25, 0.05],
    )
    kept = tree.likeliest(3)
    assert kept.token_ids.tolist() == [10, 12, 13]
    assert kept.parents.tolist() == [-1, -1, 1]
    assert kept.confidences == [0.6, 0.3, 0.25]
    assert len(tree.likeliest(0)) == 0
    assert tree.likeliest(9).token_ids.tolist() == tree.token_ids.tolist()


@pytest.mark.parametrize(
    ("accepted", "promised"),
    [
        ((), [0.9]),  # one of 10 and 12 was to follow the root
        ((10,), [0.9, (0.2 + 0.05) / 0.6]),
        ((10, 11), [0.9, (0.2 + 0.05) / 0.6]),  # nothing was drafted after 11
        ((12, 13), [0.9, 0.25 / 0.3]),
    ],
)
def test_a_verdict_tests_what_follows_each_accepted_token(accepted, promised):
    tree = Proposal(
        token_ids=np.array([10, 11, 12, 13, 14]),
        parents=np.array([-1, 0, -1, 2, 0]),
        confidences=[0.6, 0.2, 0.3, 0.25, 0.05],
    )
    assert tree.tested(accepted) == pytest.approx(promised)


def test_a_sampled_tree_keeps_the_distributions_of_its_first_path():
    probabilities = np.full((3, 4), 0.25, np.float32)
    tree = Proposal(token_ids=np.array([1, 2, 3]), parents=np.array([ROOT, 0, ROOT]), probabilities=probabilities)
    kept = tree.first_path().probabilities
    assert kept is not None
    assert kept.shape == (2, 4)
