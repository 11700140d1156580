"""The Dovetail drafter: reads the target's hidden states and drafts chains or trees."""

from __future__ import annotations

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.draft_model import DraftModel, DraftRows
from dovetail_ort_runtime.draft_shape import ChainShape, TreeShape
from dovetail_ort_runtime.draft_tree import DraftTree
from dovetail_ort_runtime.drafter import Drafter
from dovetail_ort_runtime.proposal import NOTHING, ROOT, Proposal


class FeatureDrafter(Drafter):
    """Drafts with a draft head.

    Row t of its stable cache comes from the target's hidden state of token t and from token t + 1. Those rows are read
    when a proposal is wanted, all that are missing in one pass; what drafting adds behind them is dropped.

    Example, tokens a b c observed, next token d: rows 0 to 2 are (f_a, b), (f_b, c), (f_c, d), and the last one's
    candidates follow d. If d is kept and the target goes on with e, only row 3 = (f_d, e) is read before the next
    proposal.

    Args:
        model: the drafter's graph.
        shape: of the proposals.
    """

    def __init__(self, model: DraftModel, shape: ChainShape | TreeShape | None = None) -> None:
        self.model = model
        self.shape = shape or ChainShape()
        self._token_ids: list[int] = []
        # Memory comes page by page as rows are written.
        self._features = np.empty((model.cache.capacity, model.hidden_size), dtype=np.float32)

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
        if not max_draft_tokens or (isinstance(self.shape, TreeShape) and self.shape.num_rows == 1):
            return NOTHING
        num_candidates = self.shape.width if isinstance(self.shape, TreeShape) else 1
        rows = self._catch_up(next_token_id, num_candidates)
        stable = self.model.cache.length
        try:
            if isinstance(self.shape, TreeShape):
                return self._tree(rows, self.shape, max_draft_tokens)
            return self._chain(rows, self.shape, max_draft_tokens)
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
        cache = self.model.cache
        token_ids = [int(rows.candidate_ids[0, 0])]
        log_probability = float(rows.log_probabilities[0, 0])
        least = np.log(shape.least_probability) if shape.least_probability else -np.inf
        while len(token_ids) < min(shape.num_tokens, max_draft_tokens) and log_probability >= least:
            rows = self.model.forward(
                rows.hidden_states[-1:],
                np.array(token_ids[-1:]),
                np.array([cache.length]),
                scored_rows=np.zeros(1, dtype=np.int64),
                num_candidates=1,
            )
            cache.keep((0,))
            log_probability += float(rows.log_probabilities[0, 0])
            if log_probability < least:
                break
            token_ids.append(int(rows.candidate_ids[0, 0]))
        return Proposal.chain(token_ids)

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
