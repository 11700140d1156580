"""The Dovetail drafter: reads the target's hidden states and drafts chains or trees."""

from __future__ import annotations

import math

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.draft_model import DraftModel, DraftRows
from dovetail_ort_runtime.draft_shape import FOUR_TOKENS, ChainShape, TreeShape
from dovetail_ort_runtime.draft_tree import DraftTree
from dovetail_ort_runtime.drafter import Drafter
from dovetail_ort_runtime.proposal import NOTHING, ROOT, Proposal
from dovetail_ort_runtime.session import SessionReport


class FeatureDrafter(Drafter):
    """Drafts with a draft head.

    Row t of its stable cache comes from the target's hidden state of token t and from token t + 1. Those rows are read
    when a proposal is wanted, all that are missing in one pass; what drafting adds behind them is dropped.

    Example, tokens a b c observed, next token d: rows 0 to 2 are (f_a, b), (f_b, c), (f_c, d), and the last one's
    candidates follow d. If d is kept and the target goes on with e, only row 3 = (f_d, e) is read before the next
    proposal.

    Args:
        model: the drafter's graph.
        shape: of what `propose` gives.
    """

    def __init__(self, model: DraftModel, shape: ChainShape | TreeShape = FOUR_TOKENS) -> None:
        self.model = model
        self.shape = shape
        self._token_ids: list[int] = []
        # Memory comes page by page as rows are written.
        self._features = np.empty((model.cache.capacity, model.hidden_size), dtype=np.float32)

    def reports(self) -> tuple[SessionReport, ...]:
        """The head's session."""
        return (self.model.report(),)

    def rewind(self, length: int) -> None:
        """Keep the first `length` observed tokens."""
        del self._token_ids[length:]
        # The row of the last kept token has read the token behind it, which is gone.
        self.model.cache.rewind(max(length - 1, 0))

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        """Keep (n,) int64 tokens and a copy of their (n, E) float32 features."""
        begin = len(self._token_ids)
        self._features[begin : begin + len(token_ids)] = hidden_states
        self._token_ids += token_ids.tolist()

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """A chain or a tree, as the shape says."""
        return self.draft(next_token_id, max_draft_tokens, self.shape)

    def draft(self, next_token_id: int, max_draft_tokens: int, shape: ChainShape | TreeShape) -> Proposal:
        """As `propose`, in any shape."""
        if not max_draft_tokens or (isinstance(shape, TreeShape) and shape.num_rows == 1):
            return NOTHING
        rows = self._catch_up(next_token_id, shape.width if isinstance(shape, TreeShape) else 1)
        stable = self.model.cache.length
        try:
            if isinstance(shape, TreeShape):
                return self._tree(rows, shape, max_draft_tokens)
            return self._chain(rows, shape, max_draft_tokens)
        finally:
            self.model.cache.rewind(stable)

    def _catch_up(self, next_token_id: int, num_candidates: int) -> DraftRows:
        """Read the rows that are missing; the last one is scored."""
        cache, end = self.model.cache, len(self._token_ids)
        following = np.array([*self._token_ids[cache.length + 1 :], next_token_id], dtype=np.int64)
        rows = None
        while cache.length < end:
            size = min(self.model.max_rows, end - cache.length)
            start = cache.length
            rows = self.model.forward(
                self._features[start : start + size],
                following[:size],
                np.arange(start, start + size),
                scored_rows=np.array([size - 1]),
                num_candidates=num_candidates,
            )
            following = following[size:]
            cache.keep(range(size))
        assert rows is not None, "the target keeps a token or more between two proposals"
        return rows

    def _chain(self, rows: DraftRows, shape: ChainShape, max_draft_tokens: int) -> Proposal:
        token_ids: list[int] = []
        confidences: list[float] = []
        probability = 1.0
        for least in shape.least_probabilities[:max_draft_tokens]:
            if probability < least:
                break
            if token_ids:
                rows = self._read_on(rows, token_ids[-1])
            probability *= math.exp(rows.log_probabilities[0, 0])
            if probability < least:
                break
            token_ids.append(int(rows.candidate_ids[0, 0]))
            confidences.append(probability)
        return Proposal.chain(token_ids, confidences=confidences)

    def _read_on(self, rows: DraftRows, token_id: int) -> DraftRows:
        """One more row of a chain."""
        cache = self.model.cache
        rows = self.model.forward(
            rows.hidden_states[-1:],
            np.array([token_id]),
            np.array([cache.length]),
            scored_rows=np.zeros(1, dtype=np.int64),
            num_candidates=1,
        )
        cache.keep((0,))
        return rows

    def _tree(self, rows: DraftRows, shape: TreeShape, max_draft_tokens: int) -> Proposal:
        tree = DraftTree(shape.width)
        cache, stable = self.model.cache, self.model.cache.length
        beam = tree.expand([ROOT], rows.candidate_ids, rows.log_probabilities)
        # What a node's row reads, and which slots it and its ancestors have.
        features = {ROOT: rows.hidden_states[-1].copy()}
        slots: dict[int, list[int]] = {ROOT: []}
        for level in range(shape.num_expansions):
            if cache.length + len(beam) > cache.capacity:
                break
            for index, node in enumerate(beam):
                slots[node] = [*slots[tree.parent(node)], cache.length + index]
            rows = self.model.forward(
                np.array([features[tree.parent(node)] for node in beam]),
                tree.token_ids(beam),
                np.full(len(beam), stable + level),
                scored_rows=np.arange(len(beam)),
                num_candidates=shape.width,
                attention_bias=_bias([slots[node] for node in beam], stable, cache.length + len(beam)),
            )
            cache.keep(range(len(beam)))
            features.update(zip(beam, rows.hidden_states.copy(), strict=True))
            beam = tree.expand(beam, rows.candidate_ids, rows.log_probabilities)
        return tree.best(min(shape.num_rows - 1, max_draft_tokens))


def _bias(slots: list[list[int]], num_stable: int, total: int) -> FloatArray:
    """(1, 1, S, total) float32: a row sees the stable slots and those in its list."""
    bias = np.full((len(slots), total), -np.inf, dtype=np.float32)
    bias[:, :num_stable] = 0
    for row, own in enumerate(slots):
        bias[row, own] = 0
    return bias[None, None]
