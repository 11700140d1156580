"""A tree of draft tokens as it grows, depth by depth (EAGLE-2, arXiv 2406.16858). It knows no model."""

from __future__ import annotations

import math

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal


class DraftTree:
    """Nodes below a root, each with the sum of the log-probabilities on its way from there.

    Scores are added in float32, and ties go to the lower index. A child comes after its parent and scores no higher, so
    a set of best nodes holds the parent of each.

    Args:
        width: number of nodes at one depth that are expanded at most.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._token_ids: list[int] = []
        self._parents: list[int] = []
        self._scores: list[np.float32] = []

    def expand(self, nodes: list[int], candidate_ids: TokenArray, log_probabilities: FloatArray) -> list[int]:
        """Give nodes their children.

        Args:
            nodes: n indices, or [ROOT].
            candidate_ids: (n, k) int64.
            log_probabilities: (n, k) float32, at most 0.

        Returns:
            The best `width` of the new nodes, best first: the nodes to expand next.
        """
        first = len(self._token_ids)
        for node, ids, scores in zip(nodes, candidate_ids.tolist(), log_probabilities, strict=True):
            before = np.float32(0) if node == ROOT else self._scores[node]
            self._token_ids += ids
            self._parents += [node] * len(ids)
            self._scores += list(before + scores)
        return [first + index for index in _best(self._scores[first:], self._width)]

    def token_ids(self, nodes: list[int]) -> TokenArray:
        """(n,) int64, the token of each of n nodes."""
        return np.array([self._token_ids[node] for node in nodes], dtype=np.int64)

    def probability(self, node: int) -> float:
        """Probability, by the drafter, that a node and all nodes on the way to it are accepted."""
        return math.exp(self._scores[node])

    def parent(self, node: int) -> int:
        """Index of a node's parent, or ROOT."""
        return self._parents[node]

    def best(self, num_tokens: int) -> Proposal:
        """The nodes of the highest scores, the path of the best children first.

        Args:
            num_tokens: number of nodes at most.
        """
        kept = sorted(_best(self._scores, num_tokens))
        path: list[int] = []
        node = ROOT
        children = self._children(node, kept)
        while children:
            node = max(children, key=lambda child: (self._scores[child], -child))
            path.append(node)
            children = self._children(node, kept)
        order = path + [node for node in kept if node not in path]
        place = {node: index for index, node in enumerate(order)} | {ROOT: ROOT}
        return Proposal(
            token_ids=self.token_ids(order),
            parents=np.array([place[self._parents[node]] for node in order], dtype=np.int64),
            confidences=[self.probability(node) for node in order],
        )

    def _children(self, node: int, among: list[int]) -> list[int]:
        return [other for other in among if self._parents[other] == node]


def _best(scores: list[np.float32], count: int) -> list[int]:
    """Indices of the highest scores, best first."""
    order = np.argsort(-np.array(scores, dtype=np.float32), kind="stable")
    return [int(index) for index in order[:count]]
