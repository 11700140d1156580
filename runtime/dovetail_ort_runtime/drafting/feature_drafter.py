"""The Dovetail drafter, which reads the target's hidden states."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.drafting.draft_tree import DraftTree
from dovetail_ort_runtime.drafting.drafter import TreeDrafter
from dovetail_ort_runtime.drafting.proposal import NOTHING, ROOT, Proposal
from dovetail_ort_runtime.drafting.shapes import FOUR_TOKENS, ChainShape, TreeShape
from dovetail_ort_runtime.engine.draft_graph import DraftGraph, DraftOutput
from dovetail_ort_runtime.engine.forward_inputs import padded_ancestors
from dovetail_ort_runtime.engine.session import SessionReport

# How many draft tokens are accepted, and the bonus token.
Verdict = tuple[int, int]
_CANDIDATES: Final = 2


def _never() -> bool:
    return False


class FeatureDrafter(TreeDrafter):
    """Drafts chains or trees with a draft head.

    Row t of its stable cache comes from the target's hidden state of token t and from token t + 1. Missing rows are
    read when a proposal is wanted; what drafting adds behind them is dropped.

    Example, tokens a b c observed, next token d: rows 0 to 2 are (f_a, b), (f_b, c), (f_c, d), and the last one's
    candidates follow d. If d is kept and the target goes on with e, only row 3 = (f_d, e) is missing then.

    Args:
        model: the drafter's graph.
        shape: of what `propose` gives.
    """

    def __init__(self, model: DraftGraph, shape: ChainShape | TreeShape = FOUR_TOKENS) -> None:
        self.model = model
        self.shape = shape
        self._token_ids: list[int] = []
        # Memory comes page by page as rows are written.
        self._features = np.empty((model.cache.capacity, model.hidden_size), dtype=np.float32)

    def reports(self) -> tuple[SessionReport, ...]:
        """The model's session."""
        return (self.model.report(),)

    def rewind(self, length: int) -> None:
        """Keep the first `length` observed tokens."""
        del self._token_ids[length:]
        # The last kept token's row has read the token behind it.
        self.model.cache.rewind(max(length - 1, 0))

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        """Keep tokens and a copy of their features."""
        begin = len(self._token_ids)
        self._features[begin : begin + len(token_ids)] = hidden_states
        self._token_ids += token_ids.tolist()

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """A chain or a tree."""
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

    def _catch_up(self, next_token_id: int, num_candidates: int) -> DraftOutput:
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
                num_scored=1,
                num_candidates=num_candidates,
            )
            following = following[size:]
            cache.keep(range(size))
        assert rows is not None, "the target keeps a token or more between two proposals"
        return rows

    def draft_after_verdicts(
        self,
        next_token_id: int,
        drafted: Sequence[int],
        *,
        num_verdicts: int,
        num_tokens: int,
        is_stopped: Callable[[], bool] = _never,
    ) -> dict[Verdict, Proposal]:
        """Chains to follow the likeliest verdicts on a chain that is not verified yet.

        Args:
            next_token_id: the chain's root.
            drafted: the chain.
            num_verdicts: how many are followed.
            num_tokens: of each new chain.
            is_stopped: is asked before each forward; what there is once it says yes is the result.
        """
        cache = self.model.cache
        # Where nothing is left to read, the last row is read again.
        cache.rewind(min(cache.length, len(self._token_ids) - 1))
        rows = self._catch_up(next_token_id, _CANDIDATES)
        stable = cache.length
        try:
            verdicts = self._likeliest_verdicts(rows, drafted, num_verdicts, is_stopped)
            chains: dict[Verdict, Proposal] = {}
            # A chain overwrites the rows of the draft tokens that its verdict rejects, so long ones come first.
            for verdict, feature in sorted(verdicts.items(), key=lambda item: -item[0][0]):
                if is_stopped():
                    break
                cache.rewind(stable + verdict[0])
                chain = self._chain(
                    self._read_on(feature, verdict[1]), ChainShape.fixed(num_tokens), num_tokens, is_stopped
                )
                if len(chain):
                    chains[verdict] = chain
            return chains
        finally:
            cache.rewind(stable)

    def _likeliest_verdicts(
        self, rows: DraftOutput, drafted: Sequence[int], number: int, is_stopped: Callable[[], bool]
    ) -> dict[Verdict, FloatArray]:
        """The feature, (1, E), behind which the bonus token of each verdict stands."""
        found: list[tuple[float, Verdict, FloatArray]] = []
        probability = 1.0
        for accepted in range(len(drafted) + 1):
            feature = rows.hidden_states.copy()
            candidates = dict(zip(rows.candidate_ids[0].tolist(), np.exp(rows.log_probabilities[0]), strict=True))
            right = drafted[accepted] if accepted < len(drafted) else None
            found += [
                (probability * float(share), (accepted, token_id), feature)
                for token_id, share in candidates.items()
                if token_id != right
            ]
            if right is None or is_stopped():
                break
            probability *= float(candidates.get(right, 0.0))
            rows = self._read_on(feature, right, _CANDIDATES)
        found.sort(key=lambda item: -item[0])
        return {verdict: feature for _, verdict, feature in found[:number]}

    def _chain(
        self, rows: DraftOutput, shape: ChainShape, max_draft_tokens: int, is_stopped: Callable[[], bool] = _never
    ) -> Proposal:
        token_ids: list[int] = []
        confidences: list[float] = []
        probability = 1.0
        for least in shape.least_probabilities[:max_draft_tokens]:
            if probability < least or (token_ids and is_stopped()):
                break
            if token_ids:
                rows = self._read_on(rows.hidden_states, token_ids[-1])
            probability *= math.exp(rows.log_probabilities[0, 0])
            if probability < least:
                break
            token_ids.append(int(rows.candidate_ids[0, 0]))
            confidences.append(probability)
        return Proposal.chain(token_ids, confidences=confidences)

    def _read_on(self, feature: FloatArray, token_id: int, num_candidates: int = 1) -> DraftOutput:
        """One more row of a chain, from the feature before it, (1, E)."""
        cache = self.model.cache
        rows = self.model.forward(
            feature,
            np.array([token_id]),
            np.array([cache.length]),
            num_scored=1,
            num_candidates=num_candidates,
        )
        cache.keep((0,))
        return rows

    def _tree(self, rows: DraftOutput, shape: TreeShape, max_draft_tokens: int) -> Proposal:
        tree = DraftTree(shape.width)
        cache, stable = self.model.cache, self.model.cache.length
        beam = tree.expand([ROOT], rows.candidate_ids, rows.log_probabilities)
        # What the children's rows read, and the slots of a node and its ancestors.
        features = {ROOT: rows.hidden_states[0].copy()}
        slots: dict[int, list[int]] = {ROOT: []}
        least_probabilities = shape.least_probabilities or (0.0,) * shape.num_expansions
        for level, least in enumerate(least_probabilities):
            beam = [node for node in beam if tree.probability(node) >= least]
            if not beam or cache.length + len(beam) > cache.capacity:
                break
            for index, node in enumerate(beam):
                slots[node] = [*slots[tree.parent(node)], cache.length + index]
            rows = self.model.forward(
                np.array([features[tree.parent(node)] for node in beam]),
                tree.token_ids(beam),
                np.full(len(beam), stable + level),
                num_scored=len(beam),
                num_candidates=shape.width,
                num_kept=stable,
                ancestors=padded_ancestors([slots[tree.parent(node)] for node in beam]),
            )
            cache.keep(range(len(beam)))
            features.update(zip(beam, rows.hidden_states.copy(), strict=True))
            beam = tree.expand(beam, rows.candidate_ids, rows.log_probabilities)
        return tree.best(min(shape.num_rows - 1, max_draft_tokens))
