"""The growing tree against EAGLE-2's rule written out naively."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_runtime.drafting.draft_tree import DraftTree
from dovetail_ort_runtime.drafting.proposal import ROOT


def scores_of(generator, rows, width, *, ties):
    """(rows, width) float32 log-probabilities, best first; with ties many are equal, zero among them."""
    drawn = -generator.integers(0, 3, (rows, width)) / 2 if ties else -generator.exponential(1.0, (rows, width))
    return -np.sort(-drawn.astype(np.float32), axis=1)


def grown(seed, width, num_expansions, *, ties):
    """A tree, and its nodes as (score, index, parent, token) in the order of their making."""
    generator = np.random.default_rng(seed)
    tree, nodes, beam = DraftTree(width), [], [ROOT]
    for _ in range(1 + num_expansions):
        ids = generator.integers(0, 1000, (len(beam), width))
        scores = scores_of(generator, len(beam), width, ties=ties)
        fresh = []
        for node, row_ids, row_scores in zip(beam, ids.tolist(), scores, strict=True):
            before = np.float32(0) if node == ROOT else nodes[node][0]
            for token_id, score in zip(row_ids, row_scores, strict=True):
                nodes.append((np.float32(before + score), len(nodes), node, token_id))
                fresh.append(nodes[-1])
        expected = [index for _, index, _, _ in sorted(fresh, key=lambda node: (-node[0], node[1]))[:width]]
        beam = tree.expand(beam, ids, scores)
        assert beam == expected
    return tree, nodes


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 4), st.integers(1, 20), st.booleans())
def test_the_best_nodes_are_kept_with_their_parents_and_the_best_path_first(seed, width, depth, num_tokens, ties):
    tree, nodes = grown(seed, width, depth, ties=ties)
    proposal = tree.best(num_tokens)
    kept = sorted(nodes, key=lambda node: (-node[0], node[1]))[:num_tokens]
    assert sorted(proposal.token_ids.tolist()) == sorted(node[3] for node in kept)
    # Proposal itself refuses a child without its parent. The first path goes to the best child, from the root on.
    indices, node = {node[1] for node in kept}, ROOT
    for token_id in proposal.first_path().token_ids.tolist():
        children = [other for other in nodes if other[2] == node and other[1] in indices]
        best = min(children, key=lambda child: (-child[0], child[1]))
        assert token_id == best[3]
        node = best[1]
    assert not any(other[2] == node and other[1] in indices for other in nodes)


def test_scores_that_tie_at_zero_never_leave_a_child_without_its_parent():
    tree = DraftTree(2)
    beam = tree.expand([ROOT], np.array([[1, 2]]), np.zeros((1, 2), np.float32))
    tree.expand(beam, np.array([[3, 4], [5, 6]]), np.zeros((2, 2), np.float32))
    proposal = tree.best(3)
    assert proposal.token_ids.tolist() == [1, 3, 2]
    assert proposal.parents.tolist() == [ROOT, 0, ROOT]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_tree_of_width_one_is_a_chain(count):
    tree, nodes = grown(3, 1, 3, ties=False)
    proposal = tree.best(count)
    assert proposal.is_chain
    assert proposal.token_ids.tolist() == [node[3] for node in nodes[:count]]
