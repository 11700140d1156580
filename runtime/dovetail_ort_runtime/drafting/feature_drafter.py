"""The drafter of a draft head, which reads the target's hidden states, or features made of levels before them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_names import DRAFTER_FEATURES, HIDDEN_STATES
from dovetail_ort_runtime.drafting.draft_tree import DraftTree
from dovetail_ort_runtime.drafting.drafter import ModelDrafter
from dovetail_ort_runtime.drafting.proposal import NOTHING, ROOT, Proposal
from dovetail_ort_runtime.drafting.shapes import FOUR_TOKENS, ChainShape, TreeShape
from dovetail_ort_runtime.engine.draft_graph import DraftGraph, DraftOutput
from dovetail_ort_runtime.engine.forward_inputs import padded_ancestors
from dovetail_ort_runtime.engine.session import SessionReport


class FeatureDrafter(ModelDrafter):
    """Drafts chains or trees with a draft head.

    Row t of its stable cache comes from the target's feature of token t and from token t + 1. Missing rows are
    read when a proposal is wanted. Rows that drafting adds after them are dropped again.

    Example, tokens a b c observed, next token d: rows 0 to 2 are (f_a, b), (f_b, c), (f_c, d), and the candidates of
    the last row follow d. If d is kept and the target goes on with e, only row 3 = (f_d, e) is missing then.

    Args:
        model: the draft graph and its cache.
        shape: chain or tree that `propose` gives.
    """

    def __init__(self, model: DraftGraph, shape: ChainShape | TreeShape = FOUR_TOKENS) -> None:
        super().__init__(shape)
        self.reads = DRAFTER_FEATURES if model.needs_taps else HIDDEN_STATES
        self.model = model
        self._token_ids: list[int] = []
        # Memory comes page by page as rows are written.
        self._features = np.empty((model.cache.capacity, model.hidden_size), dtype=np.float32)

    @property
    def drafts_trees(self) -> bool:
        """Whether the graph reads trees: one for chains does not."""
        return not self.model.for_chains

    def reports(self) -> tuple[SessionReport, ...]:
        """The draft graph's session."""
        return (self.model.report(),)

    def rewind(self, length: int) -> None:
        """Keep the first `length` observed tokens."""
        del self._token_ids[length:]
        # The row of the last kept token has read the token after it, which may be another one now.
        self.model.cache.rewind(max(length - 1, 0))

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        """Keep tokens and a copy of their features."""
        begin = len(self._token_ids)
        self._features[begin : begin + len(token_ids)] = hidden_states
        self._token_ids += token_ids.tolist()

    def draft(self, next_token_id: int, max_draft_tokens: int, shape: ChainShape | TreeShape) -> Proposal:
        """A chain, or a tree if the graph reads trees; arguments as in `ModelDrafter.draft`."""
        if not max_draft_tokens:
            return NOTHING
        if isinstance(shape, ChainShape):
            return self._chain(next_token_id, max_draft_tokens, shape)
        # The root is the only row.
        if shape.num_rows == 1:
            return NOTHING
        return self._tree(next_token_id, max_draft_tokens, shape)

    def catch_up(self, next_token_id: int, num_candidates: int) -> DraftOutput:
        """Read the rows that the stable cache lacks, and the last row in any case.

        Args:
            next_token_id: token that the last row reads.
            num_candidates: k, continuations of the last row.

        Returns:
            Output of the last row, n = 1.
        """
        cache = self.model.cache
        end = len(self._token_ids)
        cache.rewind(max(min(cache.length, end - 1), 0))
        first = cache.length
        following = np.array([*self._token_ids[first + 1 :], next_token_id], dtype=np.int64)
        output = None
        for start in range(first, end, self.model.max_rows):
            stop = min(start + self.model.max_rows, end)
            output = self.model.forward(
                self._features[start:stop],
                following[start - first : stop - first],
                np.arange(start, stop),
                num_scored=1,
                num_candidates=num_candidates,
            )
            cache.keep(range(stop - start))
        assert output is not None, "the target reads a token or more before something is drafted"
        return output

    def read_on(self, feature: FloatArray, token_id: int, num_candidates: int = 1) -> DraftOutput:
        """Read one more row of a chain.

        Args:
            feature: (1, F) float32, predicted by the row before.
            token_id: token after that feature.
            num_candidates: k, continuations of the new row.

        Returns:
            Output of the new row, n = 1.
        """
        cache = self.model.cache
        output = self.model.forward(
            feature,
            np.array([token_id]),
            np.array([cache.length]),
            num_scored=1,
            num_candidates=num_candidates,
        )
        cache.keep((0,))
        return output

    def likeliest_tokens(self, output: DraftOutput) -> Iterator[tuple[int, float]]:
        """The likeliest token after a row, the likeliest one after that, and so on without end.

        Each comes with its own probability after the tokens before it. Each but the first costs a forward, which runs
        when that token is asked for.

        Args:
            output: what `catch_up` or `read_on` gave for the row.
        """
        while True:
            token_id = int(output.candidate_ids[0, 0])
            yield token_id, math.exp(output.log_probabilities[0, 0])
            output = self.read_on(output.hidden_states, token_id)

    def _chain(self, next_token_id: int, max_draft_tokens: int, shape: ChainShape) -> Proposal:
        tokens = self.likeliest_tokens(self.catch_up(next_token_id, num_candidates=1))
        stable = self.model.cache.length
        token_ids: list[int] = []
        confidences: list[float] = []
        probability = 1.0
        try:
            for least in shape.least_probabilities[:max_draft_tokens]:
                # A further token never makes the chain likelier, so its forward is saved.
                if probability < least:
                    break
                token_id, chance = next(tokens)
                probability *= chance
                if probability < least:
                    break
                token_ids.append(token_id)
                confidences.append(probability)
        finally:
            self.model.cache.rewind(stable)
        return Proposal.chain(token_ids, confidences=confidences)

    def _tree(self, next_token_id: int, max_draft_tokens: int, shape: TreeShape) -> Proposal:
        """A tree that grows depth by depth (EAGLE-2, arXiv 2406.16858)."""
        cache = self.model.cache
        output = self.catch_up(next_token_id, shape.width)
        stable = cache.length
        tree = DraftTree(shape.width)
        beam = tree.expand([ROOT], output.candidate_ids, output.log_probabilities)
        # Of each node that was read: the predicted feature, (F,), and the slots of its ancestors and its own.
        features = {ROOT: output.hidden_states[0].copy()}
        slots: dict[int, list[int]] = {ROOT: []}
        least_probabilities = shape.least_probabilities or (0.0,) * shape.num_expansions
        try:
            for steps, least in enumerate(least_probabilities):
                beam = [node for node in beam if tree.probability(node) >= least]
                if not beam or cache.length + len(beam) > cache.capacity:
                    break
                parents = [tree.parent(node) for node in beam]
                output = self.model.forward(
                    np.array([features[parent] for parent in parents]),
                    tree.token_ids(beam),
                    np.full(len(beam), stable + steps),
                    num_scored=len(beam),
                    num_candidates=shape.width,
                    num_kept=stable,
                    ancestors=padded_ancestors([slots[parent] for parent in parents]),
                )
                for index, node in enumerate(beam):
                    features[node] = output.hidden_states[index].copy()
                    slots[node] = [*slots[parents[index]], cache.length + index]
                cache.keep(range(len(beam)))
                beam = tree.expand(beam, output.candidate_ids, output.log_probabilities)
        finally:
            cache.rewind(stable)
        return tree.best(min(shape.num_rows - 1, max_draft_tokens))
